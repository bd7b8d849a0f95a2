"""Logs with the official client's writer what console_spec.lua logs with ours: <key> and <run> are its arguments.

RIVER_CONSOLE_URL says where to."""

import os
import sys
import time

from river_client import _run_metrics

key, run = sys.argv[1:]
writer = _run_metrics._RunMetrics(training_run_id=run, api_key=key, user_agent="official/1", owner_pid=os.getpid(),
                                  started_at=time.time(), started_monotonic=time.monotonic(), flush_interval_s=60)
writer.log({"a": 1, "loss/x": 2.5})
writer.define_metric("loss/*", step_metric="train/step")
writer.log({"loss/x": 3, "train/step": 1})
writer.define_metric("loss/*", step_metric="train/step")
writer.define_metric("loss/x", hidden=True)
writer.log({"loss/x": 4.25, "train/step": 2})
writer.define_metric("loss/x", step_metric="_river/runtime")
writer.define_metric("loss/x")
writer.define_metric("tail", hidden=False)
_run_metrics.drain([writer])
