"""A command of edgelm run on a board: over SSH, over adb, or on an emulated one."""
