-- What the configuration calls: the actions lua.ping, lua.refuse and lua.route, and the texts
-- lua.failure and lua.model_error.

local replicas = require("replicas")
local replies = require("replies")
local routes = require("routes")

core.register_init(replicas.watch)
core.register_action("ping", {"http-req"}, replies.ping)
core.register_action("refuse", {"http-req"}, replies.refuse, 1)
core.register_action("route", {"http-req"}, routes.route)

-- The body in place of HAProxy's own error. Sets txn.lost if what failed was a session's owner that has
-- died. (No rule that runs after the reply was made may call Lua: a reply that Lua has made is made
-- while Lua is locked, and HAProxy would wait for itself.)
core.register_fetches("failure", function(txn, name)
  local replica = replicas.named(txn:get_var("txn.replica"))
  if replica and replica.state == "lost" and txn:get_var("txn.session") then
    txn:set_var("txn.lost", true)
    name = "session_lost"
  end
  local _, body = replies.refusal(txn, name)
  return body
end)

-- The body in place of a replica's error, for SageMaker's paths.
core.register_fetches("model_error", function(txn)
  return replies.model_error(txn:get_var("txn.status"), txn:get_var("txn.body") or "")
end)
