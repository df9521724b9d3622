"""The ground that jobs and serving share: Ray, storage, tracking, registry, bundle, record schemas.

What Ray and MLflow read from the environment must be there before either is imported, hence here.
"""

import gc
import os

ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",  # nobody else on the network may run code here
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.05",  # default 2 s: adds up to 5 s after each fit()
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # files that nobody reads
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the command, not only the search
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing leaves this machine
    "KINETO_LOG_LEVEL": "5",  # PyTorch's profiler says when it begins and ends
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}

for _key, _value in ENVIRONMENT.items():
    os.environ.setdefault(_key, _value)

# At Python's own pace a fifth of a start goes into looking through imported objects, all of which live to the end.
gc.set_threshold(50_000, 10, 10)
