"""The worker, which handles messages: `faststream run app.integrations.faststream.worker:worker`."""

import logging

from faststream import FastStream

from app.integrations.faststream.broker import broker, log
from app.integrations.processes import set_up_process

set_up_process()
logging.getLogger("faststream").handlers.clear()  # use the service's handlers and format instead
logging.getLogger("faststream").propagate = True
worker = FastStream(broker, logger=log)
