"""The real parts that tests are made of: Postgres, a scripted upstream, the gateway's process."""
