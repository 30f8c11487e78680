"""Which student is trained next, where, and what is remembered.

Ray reads most of its environment when it is imported, so it is set here, before anything of the tuner imports Ray;
what the user has set stays.
"""

import os

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on any system: Ray's processes listen on loopback alone
    "RAY_DEDUP_LOGS": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the journal remembers; Ray's files halve the throughput
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # likewise: nothing is resumed from Ray's own snapshots
    "TUNE_WARN_THRESHOLD_S": "60",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the old output can be silenced, the new one prints a box all the same
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a trial of 0 GPUs sees none
}

for name, value in ENVIRONMENT.items():
    os.environ.setdefault(name, value)
