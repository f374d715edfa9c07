-- Removes the contract, and the adapter with its own tables: accounts, options and the record of
-- what was charged.  Nothing of the control plane's own is touched.  Stop the gateways before.  The
-- roles stay; DROP OWNED BY image_gateway_reader, then DROP ROLE removes one.
--
-- Removing triggers waits for the control plane's running transactions and blocks later ones.
SET LOCAL lock_timeout = '5s';
DROP SCHEMA IF EXISTS image_gateway CASCADE;
DROP SCHEMA IF EXISTS image_adapter_notify CASCADE;
DROP SCHEMA IF EXISTS image_adapter CASCADE;
