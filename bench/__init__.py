"""What the gateway costs, measured beside others in one run.

Rates and CPU times on shared machines drift by half within minutes, so only what one run says side
by side can be compared; that is why each program here starts everything it needs: the peers, the
upstream, the load, a Postgres.

``compare`` (``bench/run``) measures speed and memory: ``works`` are what is asked for, ``peers``
whom, ``load`` and ``upstream`` are the two ends, ``measuring`` takes the rounds, ``results`` stores
them, ``report`` and ``chart`` show them, ``targets`` are what the gateway promises.

``buying`` (``bench/purchases``) counts pictures: ``faults`` are what goes wrong, the peers are the
same.  ``page`` puts both tables into the README.  ``locks`` measures the slots alone.
"""
