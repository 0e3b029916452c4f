"""Who a client is, by the key that it shows. Knows nothing of HTTP or sessions."""
