"""The commands ``image-gateway control`` and ``image-gateway logs``.

``control`` changes the standalone control plane, ``logs`` reads the log records.  The other modules
hold what all commands share: exit codes, output, settings.  Nothing here needs a running daemon.
"""
