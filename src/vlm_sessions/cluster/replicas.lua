-- What the router knows of each replica, from asking its /ping again and again.
--
--   ready       200
--   draining    503 with the code `draining`: it will stop, perhaps to come back
--   restarting  any other status: its edge lives, its worker or its engine is being restarted
--   away        no connection after it was draining or restarting, or not seen yet: a planned restart
--   lost        no connection after it was ready, or away for longer than a restart may take
--
-- From any of them a 200 makes it ready. HAProxy is told as well: only a ready replica gets requests
-- by its load balancing.

local http = require("http")
local settings = require("settings")

local POLL_MS = 250
local PING_SECONDS = 3
local MAX_SILENT_PINGS = 2 -- in a row: a busy machine may miss one; a refused connection counts at once
local IDLE_LOOKS = 4 -- in a row, without a request: what was written last has gone out

local replicas = {}

local by_name = {} -- name -> replica
local by_id = {} -- HAProxy's id of the server, as in the stick table -> replica
local in_order = {}
local num_choices = 0
local is_stopping = false

local function log(text)
  core.log(core.warning, text)
end

-- By `set server replicas/NAME state drain` at the admin socket: its sessions stay, no new ones come.
local function is_drained(replica)
  local answer = replica.server:is_draining() -- 0 or 1 in HAProxy 2.6, and 0 is true in Lua
  return answer == 1 or answer == true
end

local function change(replica, state)
  for _, server in ipairs({replica.server, replica.session_server}) do
    if state == "ready" then
      server:check_force_up()
    elseif state == "draining" or state == "restarting" then
      server:check_force_nolb()
    else
      server:check_force_down()
    end
  end
  if state ~= replica.state then
    replica.state = state
    replica.since = core.now().sec
    log("Replica " .. replica.name .. " (" .. replica.server:get_addr() .. ") is " .. state .. ".")
  end
end

local function answered(replica, status, text)
  replica.num_silent = 0
  if status == 200 then
    replica.num_sessions = tonumber(string.match(text, '"open_sessions"%s*:%s*(%d+)')) or 0
    replica.num_prompts = tonumber(string.match(text, '"prompts"%s*:%s*(%d+)')) or 0
    change(replica, "ready")
  elseif string.match(text, '"code"%s*:%s*"draining"') then
    change(replica, "draining")
  else
    change(replica, "restarting")
  end
end

local function did_not_answer(replica, reason)
  replica.num_silent = replica.num_silent + 1
  if reason == "silent" and replica.num_silent < MAX_SILENT_PINGS then
    return
  end
  local state = replica.state
  if state == "draining" or state == "restarting" then
    change(replica, "away")
  elseif state == "ready" or core.now().sec - replica.since >= settings.away_seconds then
    change(replica, "lost")
    if reason == "silent" then
      -- Nobody knows when what it holds would come. (The connections of one that has died are closed.)
      replica.server:shut_sess()
      replica.session_server:shut_sess()
    end
  end
end

local function poll(replica)
  while true do
    -- What was sent before the ping is in its answer, what is sent from now on is not.
    local num_opened, num_sent = replica.num_opened, replica.num_sent
    local exchange, reason = http.send(replica.server:get_addr(), PING_SECONDS, "GET /ping\r\n", "")
    local status, body
    if exchange then
      status, body = http.receive(exchange, true)
    end
    if status then
      answered(replica, status, body)
      replica.num_opened = replica.num_opened - num_opened
      replica.num_sent = replica.num_sent - num_sent
    else
      did_not_answer(replica, reason or "silent")
    end
    -- `set server replicas/NAME state maint`
    replica.suspended = string.sub(replica.server:get_stats().status, 1, 5) == "MAINT"
    core.msleep(POLL_MS)
  end
end

local function add(name, server)
  local replica = {
    name = name,
    server = server,
    session_server = core.backends.sessions.servers[name],
    state = "away",
    since = core.now().sec,
    suspended = false,
    num_silent = 0,
    num_sessions = 0, -- open ones, as it said
    num_prompts = 0, -- running or waiting, as it said
    num_opened = 0, -- openings sent to it since
    num_sent = 0, -- requests sent to it since
  }
  change(replica, "away")
  by_name[name] = replica
  by_id[server:get_stats().sid] = replica
  table.insert(in_order, replica)
  core.register_task(function() poll(replica) end)
end

-- Once HAProxy has been told to stop: says when no answer is on its way any more. HAProxy itself would
-- go on to wait for clients that keep their connections open.
local function watch_stopping()
  local num_idle = 0
  while num_idle < IDLE_LOOKS do
    core.msleep(POLL_MS)
    is_stopping = core.get_info().Stopping == 1
    local num_running = core.backends.replicas:get_stats().scur + core.backends.sessions:get_stats().scur
    num_idle = is_stopping and num_running == 0 and num_idle + 1 or 0
  end
  log("All answers are finished.")
end

-- Begins to watch all servers of the backend `replicas`.
function replicas.watch()
  core.register_task(watch_stopping)
  for name, server in pairs(core.backends.replicas.servers) do
    add(name, server)
  end
  table.sort(in_order, function(one, other) return one.name < other.name end)
end

-- No request should wait any longer: another router may take it.
function replicas.is_stopping()
  return is_stopping
end

function replicas.all()
  return in_order
end

-- The replica whose server has this id, or nil: one that was taken out of the configuration.
function replicas.with_id(id)
  return by_id[id]
end

function replicas.named(name)
  return by_name[name]
end

-- Its state, for a request that belongs to it. One in maintenance is as if it restarted.
function replicas.state_of(replica)
  return replica.suspended and "restarting" or replica.state
end

-- The replica for a request without a session, or nil if none may take it. An opening goes to the one
-- with the fewest open sessions, everything else to the least busy; what this router has sent since
-- the last ping counts, and the turn goes round among equals.
function replicas.choose(opens)
  num_choices = num_choices + 1
  local best, best_first, best_second
  for step = 1, #in_order do
    local replica = in_order[(num_choices + step) % #in_order + 1]
    if replica.state == "ready" and not replica.suspended and not is_drained(replica) then
      local first = replica.num_sessions + replica.num_opened
      local second = replica.num_prompts + replica.num_sent
      if not opens then
        first, second = second, first
      end
      if replica.num_silent > 0 then
        first = math.huge -- it may be frozen
      end
      if not best or first < best_first or first == best_first and second < best_second then
        best, best_first, best_second = replica, first, second
      end
    end
  end
  return best
end

-- Counts a request that is being sent to it.
function replicas.note_sent(replica, opens)
  replica.num_sent = replica.num_sent + 1
  if opens then
    replica.num_opened = replica.num_opened + 1
  end
end

-- Whether one that is not ready may become so by itself: then waiting makes sense.
function replicas.some_may_return()
  for _, replica in ipairs(in_order) do
    if replica.state ~= "ready" and replica.state ~= "lost" then
      return true
    end
  end
  return false
end

return replicas
