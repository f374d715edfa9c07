"""What people type: ``image-gateway control`` and ``image-gateway logs``.

``control`` changes the standalone control plane, ``reports`` reads the log records, and
``terminal`` is how every command speaks: exit codes, tables, progress.  Nothing here needs a
running daemon.
"""
