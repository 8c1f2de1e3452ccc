"""Drives an instance by the client of docs/control-socket.md, which stands before this, without any package.

Its argument is the path of the control socket. The instance has the port eth1.
"""

import sys


def refused(call, error, **parameters):
    """That a call is answered by this error, with these parameters."""
    try:
        call()
    except Refused as answer:
        assert answer.args[0] == error, answer
        for name, value in parameters.items():
            assert value in str(answer.args[1][name]), answer
    else:
        raise AssertionError(f"{error} was expected")


switch = Switch(sys.argv[1])
via = {"family": "link", "host": "02:00:00:00:00:09"}
invalid = "org.varlink.service.InvalidParameter"
for field, route in [
    ("outs", {"label": 100, "outs": [110], "via": via, "dev": "eth1"}),
    ("via.hots", {"label": 100, "via": {"family": "link", "hots": "02:00:00:00:00:09"}, "dev": "eth1"}),
    ("backup.devs", {"label": 100, "via": via, "dev": "eth1", "backup": {"via": via, "devs": "eth1"}}),
    ("nexthops[1].weigt", {"label": 100, "nexthops": [{"via": via}, {"via": via, "weigt": 2}]}),
]:
    refused(
        lambda: switch.call("AddRoutes", routes=[route]),
        invalid,
        parameter=f"parameters.routes[0].{field}",
        reason=f"unknown field `{field.split('.')[-1]}`",
    )
assert switch.call("ListRoutes") == {"routes": []}

route = {"label": 100, "action": "swap", "out": [110], "via": via, "dev": "eth1", "protocol": "static"}
assert switch.call("AddRoutes", routes=[route])["changes"]["added"] == 1
# As the document shows it.
assert switch.call("ListRoutes", label=100, counters=True) == {
    "routes": [
        {
            "route": route,
            "owner": "static",
            "next_hop": {
                "via": via,
                "dev": "eth1",
                "lladdr": via["host"],
                "state": "static",
                "own_backups": False,
                "redirect_lost": False,
                "routes": 1,
            },
            "counter": {"packets": 0, "bytes": 0},
        }
    ]
}
assert "counter" not in switch.call("ListRoutes", label=100)["routes"][0]
refused(lambda: switch.call("AddRoutes", routes=[route]), "io.mplsxdp.RouteExists", route="100 as to 110 ")
assert switch.call("Unload") == {}
