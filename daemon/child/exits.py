"""Exit codes that say more than "it failed" (sysexits.h)."""

EXIT_USAGE = 64  # EX_USAGE: the command line is wrong
EXIT_RECYCLE = 75  # EX_TEMPFAIL: nothing is wrong with the work, only with the process, which has grown old
EXIT_CONFIGURATION = 78  # EX_CONFIG: no restart can help; `features.errors` has it for the errors that mean it
