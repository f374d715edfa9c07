-- Reading what may be anything: a value of the wrong form counts as absent, and never fails a view.

-- The text at a path, trimmed; null if there is none.
CREATE OR REPLACE FUNCTION text_at(document jsonb, VARIADIC path text[]) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN jsonb_typeof(document #> path) = 'string'
                THEN nullif(btrim(document #>> path, E' \t\r\n'), '') END;

-- The number at a path; null if there is none.
CREATE OR REPLACE FUNCTION number_at(document jsonb, VARIADIC path text[]) RETURNS numeric
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN jsonb_typeof(document #> path) = 'number'
                THEN (document #>> path)::numeric END;

-- A text as JSON; null if it is none.
CREATE OR REPLACE FUNCTION json_of(content text) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN content::jsonb;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

-- A time as RFC 3339 writes it; null if the text is none.
CREATE OR REPLACE FUNCTION moment_of(content text) RETURNS timestamptz LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN CASE WHEN content ~ '^\d{4}-\d\d-\d\d[T ]\d\d:\d\d' THEN content::timestamptz END;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

-- Unix seconds as a time; null for what no timestamptz holds.
CREATE OR REPLACE FUNCTION moment_of(seconds numeric) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN seconds BETWEEN 0 AND 250000000000 -- the year 9892
                THEN to_timestamp(seconds::double precision) END;

-- A percentage from 0 to 100; null for null, which greatest and least would skip.  Rounded, because
-- a number too close to zero is out of double precision's range.
CREATE OR REPLACE FUNCTION percent(used numeric) RETURNS double precision
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN least(greatest(round(used, 6), 0), 100)::double precision;

-- A text whose %XX are decoded; null if they are not UTF-8.
CREATE OR REPLACE FUNCTION percent_decoded(content text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE
    decoded bytea := '';
    piece text;
BEGIN
    IF strpos(content, '%') = 0 THEN
        RETURN content;
    END IF;
    FOR piece IN SELECT (regexp_matches(content, '%[0-9A-Fa-f]{2}|[^%]+|%', 'g'))[1] LOOP
        decoded := decoded || CASE WHEN piece ~ '^%.' THEN decode(substr(piece, 2), 'hex')
                                   ELSE convert_to(piece, 'UTF8') END;
    END LOOP;
    RETURN convert_from(decoded, 'UTF8');
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

-- A proxy's URL without its user and password, and these decoded, as the contract's columns; all
-- null if the text is no proxy's URL.  The names in the body are looked up now: a view calls this
-- for a role that may not look up any in this schema.
CREATE OR REPLACE FUNCTION proxy_of(content text)
    RETURNS TABLE (url text, username text, password text)
    LANGUAGE sql IMMUTABLE ROWS 1
BEGIN ATOMIC
    SELECT CASE WHEN is_read THEN scheme || '://' || host END,
           CASE WHEN is_read THEN nullif(name, '') END,
           CASE WHEN is_read THEN word END
    FROM (
        SELECT scheme, host, name, word,
               (login = '') IS NOT FALSE
               OR name <> '' AND (login NOT LIKE '%:%' OR word IS NOT NULL) AS is_read
        FROM (
            SELECT lower(split_part(content, '://', 1)) AS scheme,
                   split_part(place, '@', -1) AS host,
                   login,
                   percent_decoded(split_part(login, ':', 1)) AS name,
                   CASE WHEN login LIKE '%:%'
                        THEN percent_decoded(substr(login, strpos(login, ':') + 1)) END AS word
            FROM (
                SELECT btrim(content, E' \t\r\n') AS content
                -- Without parts to capture, because those are slow.
                WHERE btrim(content, E' \t\r\n')
                      ~* '^(https?|socks5h?)://([^/@]*@)?[^/@?#\s]+/?$'
            ) AS trimmed
            RIGHT JOIN (SELECT) AS always ON true
            CROSS JOIN LATERAL (
                SELECT rtrim(substr(content, strpos(content, '://') + 3), '/') AS place
            ) AS p
            CROSS JOIN LATERAL (
                SELECT CASE WHEN place LIKE '%@%' THEN split_part(place, '@', 1) END AS login
            ) AS l
            OFFSET 0
        ) AS decoded
    ) AS proxy;
END;

-- The base URL of an OpenAI-compatible upstream as the contract has it: it ends in /v1, or in the
-- version that it names itself.
CREATE OR REPLACE FUNCTION openai_base(content text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (
        SELECT CASE WHEN base = '' THEN NULL WHEN base ~ '/v\d+$' THEN base ELSE base || '/v1' END
        FROM (SELECT rtrim(btrim(content, E' \t\r\n'), '/') AS base) AS trimmed
    );

-- The contract's key_hash of a secret.  It is IMMUTABLE, so that it may stand in an index;
-- convert_to() may not.
CREATE OR REPLACE FUNCTION hash_of(secret text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN encode(sha256(decode(replace(secret, '\', '\\'), 'escape')), 'hex');

-- A view calls functions with the rights of the role that reads it.
GRANT EXECUTE ON FUNCTION text_at, number_at, json_of, moment_of(text), moment_of(numeric), percent,
    percent_decoded, proxy_of, openai_base, hash_of TO PUBLIC;
