"""Measures each step of a request in a loop, and prints the µs of CPU time per call as JSON, by name.

`hot_loops.py COUNT` runs in the service's environment and folder, with LOG_PATH and LOG_FORMAT set. The step "empty
call" is the cost of the loop itself.
"""

import json
import sys
import time
from collections.abc import Callable
from itertools import repeat

from app.common.context.request_record import current_record
from app.common.log_handler import configure_logging
from app.settings import get_settings
from hot_ingredients import all_ingredients, finished_request


def measure(function: Callable[[], object], count: int) -> float:
    """Return the µs of CPU time per call."""
    for _ in repeat(None, count // 10):
        function()
    began = time.process_time()
    for _ in repeat(None, count):
        function()
    return (time.process_time() - began) / count * 1e6


def main(count: int) -> None:
    """Measure each step with a current request, and print the figures."""
    configure_logging(get_settings())
    form = "JSON" if get_settings().log_format == "json" else "text"
    ingredients = all_ingredients(form)
    current_record.set(finished_request())
    print(json.dumps({name: measure(function, count) for name, function in ingredients.items()}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
