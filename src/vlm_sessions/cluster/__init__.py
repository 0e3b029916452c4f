"""Several replicas behind a sticky router.

options     what ``vlm-sessions router`` and ``cluster`` are told, checked
router      one HAProxy with its configuration and its Lua files: written, started, stopped
refusals    what the router itself answers, for Lua
keeper      a child process that is started again when it ends by itself
ports       loopback ports that stay ours
replicas    one ``vlm-sessions serve`` on its own port and state directory
cluster     replicas and routers on one machine, and the rolling update
main        the way in of both commands

router.cfg       HAProxy's configuration: paths, backends, the table of sessions and owners
router.lua       what the configuration calls
routes.lua       which replica a request goes to, and how long it waits for it
replicas.lua     the state of each replica
replies.lua      replies of the router's own
http.lua         requests of the router's own
"""

from vlm_sessions.cluster.main import run_cluster, run_router
from vlm_sessions.cluster.options import ClusterOptions, Member, RouterOptions

__all__ = ["ClusterOptions", "Member", "RouterOptions", "run_cluster", "run_router"]
