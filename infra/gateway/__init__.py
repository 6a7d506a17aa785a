"""The gateway: serve models over HTTP, as the traffic split says, and log every answer to the lake."""
