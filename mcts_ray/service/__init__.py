"""Searches for others: jobs over HTTP with durable storage, on Ray Serve or in this process.

settings, home     what the operator allows; where URL and token lie
models, errors     what goes over HTTP, shared by app, client and command line
checks             what can be said against a request before it is queued
store              the job index and the run directories, on a path or an fsspec URL
runner, jobs       carrying out one job; the life cycle of all of them
app                the FastAPI application on any `Jobs`
client             `Client` and `AsyncClient`
observe            metrics
actor, serve, up   the detached actor, the Serve application, and how they are started and ended
"""
