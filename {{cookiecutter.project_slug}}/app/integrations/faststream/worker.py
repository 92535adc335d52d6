"""The process that works on messages: `faststream run app.integrations.faststream.worker:worker`."""

import logging

from faststream import FastStream

from app.common.log_handler import configure_logging, prepare_log_files
from app.integrations import observe_work
from app.integrations.faststream.broker import broker, log
from app.settings import get_settings

for set_up in (prepare_log_files, configure_logging, observe_work):
    set_up(get_settings())
logging.getLogger("faststream").handlers.clear()  # its own, with a format of its own
logging.getLogger("faststream").propagate = True
worker = FastStream(broker, logger=log)
