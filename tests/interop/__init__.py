"""Callers in other languages, built from protos/ alone, against a real gateway that is stopped and killed.

Each caller is a program that gets the gateway's address, a flow and a request id, and prints one line for each thing:

- `started false true true REVISION`: it starts the flow, starts it again with the same request id, and reads it. The
  words say whether the first and the second answer were replayed and whether all three had the same id. The revision
  is that of the first answer.
- `refused REASON FIELD`: it names a bad recipient, and decodes the details of the error.
- `changed REVISION`: it watches from the start's revision on, and resumes with the last revision and epoch.
- `ended CODE`: a stream ended. Anything but `UNAVAILABLE` ends the caller. Where the library has no status for a
  connection that broke, a kill may be `BROKEN` instead.
"""
