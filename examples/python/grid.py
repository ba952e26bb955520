"""Call functions of a grid from Python, through the agent of this computer.

    python3 grid.py upper hello          # as grid call upper hello
    python3 grid.py --list
"""

import http.client, json, os, socket, sys
from urllib.parse import urlencode


class GridError(Exception):
    """A problem (RFC 9457): .problem has type, detail, call, function, worker."""

    def __init__(self, problem):
        super().__init__("{title}: {detail}".format(**problem))
        self.problem = problem


class Grid:
    def __init__(self, state=os.path.expanduser("~/.local/state/instantgrid")):
        self.path = os.path.join(state, "control.sock")

    def request(self, method, path, body=None, kind="application/json"):
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(self.path)
        try:
            connection.request(method, path, body, {"Content-Type": kind})
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise GridError(json.loads(data))
        return data

    def call(self, function, argument, **how):
        """A function on values: grid.call("add", {"a": 1}, timeout="30s", verify="2of3")."""
        path = "/v1/functions/" + function + "?" + urlencode(how)
        return json.loads(self.request("POST", path, json.dumps(argument)))

    def run(self, program, data, **how):
        """A program: bytes in, bytes out."""
        path = "/v1/functions/" + program + "?" + urlencode(how)
        return self.request("POST", path, data, "application/octet-stream")

    def functions(self):
        return json.loads(self.request("GET", "/v1/functions"))["functions"]


if __name__ == "__main__":
    grid = Grid(os.environ.get("GRID_STATE", os.path.expanduser("~/.local/state/instantgrid")))
    if sys.argv[1:] == ["--list"]:
        for f in grid.functions():
            print(f["name"], f["kind"], ", ".join(f["workers"]))
    elif len(sys.argv) == 3:
        sys.stdout.buffer.write(grid.run(sys.argv[1], sys.argv[2].encode()))
    else:
        sys.exit(__doc__)
