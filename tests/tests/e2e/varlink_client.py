"""Drives an instance by the varlink package of PyPI, which knows nothing of mplsxdp but what the socket tells it.
An example of docs/control-socket.md stands before this.

Its argument is the path of the control socket. The instance has the port eth1.
"""

import sys

import varlink


def refused(call, error, **parameters):
    """That a call is answered by this error, with these parameters."""
    try:
        call()
    except varlink.VarlinkError as answer:
        assert answer.error() == error, answer
        for name, value in parameters.items():
            assert answer.parameters()[name] == value, answer
    else:
        raise AssertionError(f"{error} was expected")


with varlink.Client.new_with_address("unix:" + sys.argv[1]) as client:
    assert "io.mplsxdp" in client.get_interfaces()
    with client.open("io.mplsxdp") as switch:
        first = {"label": 100, "out": [110], "via": {"family": "link", "host": "02:00:00:00:00:01"}, "dev": "eth1"}
        switch.AddRoutes([first])
        status = switch.GetStatus()["status"]
        assert status["label_routes"] == 1 and status["mode"] == "native", status

        new = {"label": 200, "out": [210], "via": {"family": "link", "host": "02:00:00:00:00:09"}, "dev": "eth1"}
        changes = switch.AddRoutes([new])["changes"]
        assert changes == {"added": 1, "replaced": 0, "deleted": 0}, changes
        refused(lambda: switch.AddRoutes([new]), "io.mplsxdp.RouteExists", key={"label": 200})
        # All or nothing: the first of the two would be right.
        bad = [dict(new, label=300), dict(new, label=301, out=[1048576])]
        refused(lambda: switch.AddRoutes(bad), "io.mplsxdp.RouteRefused", index=1)
        refused(lambda: switch.ListRoutes(label=100, prefix="10.0.0.0/8"), "org.varlink.service.InvalidParameter")

        # What docs/control-socket.md says of this client: it drops the field `outs`, which `action` brings to light,
        mistyped = {"label": 400, "outs": [410], "via": new["via"], "dev": "eth1"}
        assert switch.AddRoutes([mistyped])["changes"]["added"] == 1
        (page,) = switch.ListRoutes(label=400, _more=True)
        assert page["routes"][0]["route"]["action"] == "pop", page
        switch.DeleteRoutes([{"label": 400}])
        refused(lambda: switch.AddRoutes([dict(mistyped, action="swap")]), "io.mplsxdp.RouteRefused", index=0)
        several = [{"out": [1], "via": new["via"], "dev": "eth1", "weight": 2}, {"via": new["via"], "dev": "eth1"}]
        right = [new, {"label": 400, "nexthops": several}]
        assert checked(client, right) == right
        for wrong in [
            mistyped,
            {"label": 400, "nexthops": [dict(several[0], weigt=2), several[1]]},
            dict(new, backup={"via": new["via"], "devs": "eth1"}),
        ]:
            try:
                checked(client, [new, wrong])
            except ValueError:
                pass
            else:
                raise AssertionError(f"{wrong} is taken")
        # and it drops the reason of this error, until it is told to keep it.
        hides = varlink.InvalidParameter.new
        for new_error, parameters in [
            (hides, {"parameter"}),
            (varlink.VarlinkError, {"parameter", "reason"}),
        ]:
            varlink.InvalidParameter.new = new_error
            try:
                switch.ListRoutes(label=100, prefix="10.0.0.0/8")
            except varlink.VarlinkError as answer:
                assert set(answer.parameters()) == parameters, answer
            else:
                raise AssertionError("InvalidParameter was expected")
        varlink.InvalidParameter.new = hides

        routes = [route for reply in switch.ListRoutes(counters=True, _more=True) for route in reply["routes"]]
        labels = [route["route"]["label"] for route in routes]
        assert labels == [100, 200], routes
        assert routes[1]["counter"] == {"packets": 0, "bytes": 0}, routes

        switch.Begin(True)
        assert switch.Stage([dict(new, label=label) for label in range(1000, 3000)])["staged"] == 2000
        changes = switch.Commit()["changes"]
        assert changes == {"added": 2000, "replaced": 0, "deleted": 2}, changes

        # A client that goes away rolls back.
        switch.Begin(True)
    with client.open("io.mplsxdp") as switch:
        assert switch.GetStatus()["status"]["label_routes"] == 2000
        refused(lambda: switch.Commit(), "io.mplsxdp.NoTransaction")
        switch.Unload()
