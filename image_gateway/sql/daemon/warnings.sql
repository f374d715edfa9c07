-- What an adapter tells `image-gateway check`: what its views cannot see.
SELECT warning FROM image_gateway.warnings ORDER BY warning
