"""Kept calls: what the processes of one machine know of each other's calls, as files in a folder.

    calls/<call id>      the journal of a call (``core.calls.journal``): one name, one truth
    answers/<call id>    the bytes of its answer, complete before the journal says that it ended;
                         behind them the pictures that the answer has addresses of
    keys, fingerprints, names/<2 digits>/<tag>.<created>.<call id>
                         entries by which a call is found without reading all of them: names of
                         one empty file in each folder
    names.lock           empty; one byte of it is locked while a named call is looked up and begun

A call is there as long as its journal has its name: unlinking it forgets the call for everybody at
once, even on a full disk.  What is left without a journal, answers and entries, is dead.  So a
journal is made first and removed first.

Who is busy with a call shows in locks on its journal (``locks``), which the kernel drops when a
process ends, however it ends.  A journal without an end that nobody works on is a call with an
unknown outcome, or, if no upstream was asked, one that made nothing.

Nothing is synced to the disk: what is kept outlives a killed process, but not always a power loss.
Nothing here is policy: which call a request finds is decided in ``core.calls``.  A failing disk
fails no call; it goes on unkept.  Start with ``store.KeptCalls``.
"""
