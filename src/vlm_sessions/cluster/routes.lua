-- Which replica a request goes to, and how long it waits for it.
--
--   no session         a ready replica
--   a known session    its owner, always; held while the owner restarts; told when it is lost
--   an unknown one     every replica is asked whether it knows it: this router, or both, may have been
--                      restarted, or the other one's table not have come here yet
--
-- The owners are in the stick table `owners`, learned from replies.

local http = require("http")
local replicas = require("replicas")
local replies = require("replies")
local settings = require("settings")

local HEADER = "X-Amzn-SageMaker-Session-Id"
-- Where an API key may be: whoever asks for a client asks with that client's.
local CREDENTIALS = {"Authorization", "X-Api-Key"}
local MAX_CREDENTIAL_CHARS = 512 -- what is longer is no key, and might be more than a replica takes
local DESCRIBE = '{"type":"describe_session"}'
local NEW_SESSION = "NEW_SESSION"
local MAX_ID_CHARS = 64 -- the table's keys
local HOLD_MS = 50 -- between two looks at the owner of a request that waits
local ASK_MS = 250 -- between two rounds of questions
local ASK_SECONDS = 3
local PEEK_MS = 5
local MAX_PEEKS = 10

local routes = {}

-- A key for each request that is asking: thousands of unknown ids must not become a load. Where
-- a client leaves, HAProxy drops its request's Lua in the middle: no later line could count it down, but
-- nobody holds its key any more, and the keys are weak.
local finding = setmetatable({}, {__mode = "k"})

local function now_ms()
  local now = core.now()
  return now.sec * 1000 + now.usec // 1000
end

-- Waits for something to change; false when there is no point in it any more.
local function can_wait(deadline, ms)
  if now_ms() >= deadline or replicas.is_stopping() then
    return false
  end
  core.msleep(ms)
  return true
end

-- The session that the request names, or nil. Does not return if it cannot be one.
local function session_of(txn)
  local id = txn.f:req_fhdr(HEADER) or "" -- the last, and who knows which one a replica would take
  if txn.f:req_fhdr_cnt(HEADER) > 1 then
    replies.refuse(txn, "malformed_session_id")
  elseif id == "" or id == NEW_SESSION then
    return nil
  end
  local is_well_formed = string.match(id, "^%w[%w-]*$") and string.sub(id, -1) ~= "-"
  if not is_well_formed or #id > MAX_ID_CHARS then
    replies.refuse(txn, "malformed_session_id")
  end
  return id
end

-- Whether a request without a session opens one. SageMaker's header says so. Else only the body can
-- tell, of which the router reads no more than what has come with the head; what it cannot tell counts
-- as a stateless call, for which the least busy replica is never a wrong choice.
local function opens_session(txn)
  if txn.f:req_fhdr(HEADER) == NEW_SESSION then
    return true
  elseif txn.f:path() ~= "/invocations" then
    return false
  elseif string.match(txn.f:req_hdr("Content-Type") or "", "^image/") then
    return true -- the picture itself is the body
  end
  for _ = 1, MAX_PEEKS do
    if txn.f:req_body_len() > 0 then
      break
    end
    core.msleep(PEEK_MS)
  end
  local body = txn.f:req_body() or ""
  return string.find(body, '"open_session"', 1, true) ~= nil
    or string.find(body, '"start_session"', 1, true) ~= nil
    or string.find(body, '"NEW_SESSION"', 1, true) ~= nil
end

local function any_ready(txn, deadline)
  local opens = opens_session(txn)
  while true do
    local replica = replicas.choose(opens)
    if replica then
      replicas.note_sent(replica, opens)
      return replica
    end
    if not replicas.some_may_return() or not can_wait(deadline, HOLD_MS) then
      replies.refuse(txn, "no_replica")
    end
  end
end

local function owner_of(txn, id)
  return replicas.with_id(txn.c:table_server_id(id, "owners"))
end

-- Returns once its owner is ready.
local function hold(txn, id, owner, deadline)
  while true do
    local state = replicas.state_of(owner)
    if state == "ready" then
      return
    elseif txn.c:table_gpt0(id, "owners") == 1 then
      replies.refuse(txn, "session_closed")
    elseif state == "lost" then
      replies.refuse(txn, "session_lost")
    elseif not can_wait(deadline, HOLD_MS) then
      replies.refuse(txn, "owner_unavailable")
    end
  end
end

-- The client's credentials, as lines of a head. (HAProxy has seen to it that no value has a line break.)
local function credentials_of(txn)
  local lines = ""
  for _, name in ipairs(CREDENTIALS) do
    local value = txn.f:req_fhdr(name)
    if value and #value <= MAX_CREDENTIAL_CHARS then
      lines = lines .. name .. ": " .. value .. "\r\n"
    end
  end
  return lines
end

-- Whether a replica that answers this when it is asked to describe a session knows it; nil: who knows.
local function tells(status)
  if status == 404 then
    return false
  elseif status == 200 or status == 409 or status == 410 then -- open, of another model, or over
    return true
  end
  return nil
end

-- Asks replicas, those first that have just answered; the one that knows the session, or nil. `denied`
-- collects those that do not. Does not return where the client may not come in at all.
--
-- One after the other: a reply that has come and that nobody reads, while another replica is silent,
-- keeps HAProxy 2.6 spinning until it takes itself for broken and aborts.
local function ask(txn, asked, id, denied)
  local head = "POST /invocations\r\nContent-Type: application/json\r\n" .. HEADER .. ": " .. id .. "\r\n"
    .. credentials_of(txn)
  table.sort(asked, function(one, other) return one.num_silent < other.num_silent end)
  for _, replica in ipairs(asked) do
    local exchange = http.send(replica.server:get_addr(), ASK_SECONDS, head, DESCRIBE)
    local status = exchange and http.receive(exchange, false)
    if status == 401 then
      replies.refuse(txn, "unauthorized")
    end
    local is_known = tells(status)
    if is_known then
      return replica
    end
    denied[replica] = is_known == false
  end
  return nil
end

-- Those that are ready and have not denied it; and whether all replicas have.
local function left_to_ask(denied)
  local asked = {}
  local num_denied = 0
  for _, replica in ipairs(replicas.all()) do
    if denied[replica] then
      num_denied = num_denied + 1
    elseif replicas.state_of(replica) == "ready" then
      table.insert(asked, replica)
    end
  end
  return asked, num_denied == #replicas.all()
end

local function num_finding()
  local num = 0
  for _ in pairs(finding) do
    num = num + 1
  end
  return num
end

local function find(txn, id, deadline)
  local denied = {} -- replica -> whether it has said that it does not know the session
  while true do
    local owner
    local asked = left_to_ask(denied)
    if #asked > 0 and num_finding() < settings.max_finding then
      local key = {}
      finding[key] = true
      owner = ask(txn, asked, id, denied)
      finding[key] = nil
    end
    owner = owner or owner_of(txn, id) -- the other router may have told meanwhile
    if owner then
      return owner
    end
    local _, all_denied = left_to_ask(denied)
    if all_denied then
      replies.refuse(txn, "session_not_found")
    elseif not can_wait(deadline, ASK_MS) then
      replies.refuse(txn, "owner_unknown")
    end
  end
end

-- Sets txn.replica, and txn.session if there is one; or refuses.
function routes.route(txn)
  local deadline = now_ms() + settings.hold_ms
  local id = session_of(txn)
  local replica
  if id then
    replica = owner_of(txn, id) or find(txn, id, deadline)
    hold(txn, id, replica, deadline)
    replicas.note_sent(replica, false)
    txn:set_var("txn.session", id)
  else
    replica = any_ready(txn, deadline)
  end
  txn:set_var("txn.replica", replica.name)
end

return routes
