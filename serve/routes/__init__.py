"""The routes of the server, a kind of task a module: each has `routes(serving)`."""
