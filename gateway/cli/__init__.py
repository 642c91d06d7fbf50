"""The command `startflow`: a client over the API, and the way to run the gateway and the sandbox.

Typed words become requests in `app` and `commands`; `session` is what each command does, `client` calls, `console`,
`board` and `views` show. It imports of the gateway only what it runs: `config`, `server` and `sandbox`, and each when
it is needed.
"""
