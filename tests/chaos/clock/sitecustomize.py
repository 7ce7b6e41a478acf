"""Python runs this first where the folder is on its path: its wall clock is `DCDR_TEST_AHEAD_S` seconds ahead, nothing
else. (A clock that is faked below librdkafka makes its waits so much longer.)"""

import os
from datetime import UTC, datetime, timedelta

import time_machine

time_machine.travel(datetime.now(UTC) + timedelta(seconds=float(os.environ["DCDR_TEST_AHEAD_S"]))).start()
