"""What people type: ``image-gateway control`` and ``image-gateway logs``.

``control`` changes the standalone control plane and ``logs`` reads the log records.  The other
modules are what every command shares: exit codes, output, settings.  Nothing here needs a
running daemon.
"""
