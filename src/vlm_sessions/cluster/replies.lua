-- Replies of the router's own. `refusals` is written from the product's tree of errors.

local replicas = require("replicas")
local refusals = require("refusals") -- name -> {status, code, message, retry_after}

-- Of the container's body in a ModelError; both fields may have 2048 characters.
local MAX_ORIGINAL_CHARS = 2048
local MAX_QUOTED_CHARS = 1900

local replies = {}

local function quoted(text)
  local escaped = string.gsub(text, '[%c"\\]', function(char)
    if char == '"' or char == "\\" then
      return "\\" .. char
    end
    return string.format("\\u%04x", string.byte(char))
  end)
  return '"' .. escaped .. '"'
end

-- What botocore can decode, and no more than `num_chars` of it.
local function cut(text, num_chars)
  if not utf8.len(text) then
    text = string.gsub(text, "[\128-\255]", "?")
  end
  local rest = utf8.offset(text, num_chars + 1)
  return rest and string.sub(text, 1, rest - 1) or text
end

-- SageMaker's error for whatever a container refuses: botocore raises ModelError from it.
function replies.model_error(status, body)
  local kind = tonumber(status) < 500 and "client" or "server"
  local message = "Received " .. kind .. " error (" .. status .. ') from the container with message "'
    .. cut(body, MAX_QUOTED_CHARS) .. '".'
  return '{"Message":' .. quoted(message) .. ',"OriginalStatusCode":' .. status
    .. ',"OriginalMessage":' .. quoted(cut(body, MAX_ORIGINAL_CHARS)) .. ',"LogStreamArn":""}'
end

-- Status and body of a refusal, in the words of the path that was asked.
function replies.refusal(txn, name)
  local refusal = refusals[name]
  local body = '{"error":{"code":' .. quoted(refusal.code) .. ',"message":' .. quoted(refusal.message) .. "}}"
  if txn:get_var("txn.endpoint") then
    return 424, replies.model_error(refusal.status, body), refusal
  end
  return refusal.status, body, refusal
end

-- Ends the request. Does not return.
local function reply_with(txn, status, headers, body)
  local reply = txn:reply{status = status}
  reply:add_header("Content-Type", "application/json")
  for name, value in pairs(headers) do
    reply:add_header(name, value)
  end
  reply:set_body(body)
  txn:set_var("txn.answered", true)
  txn:done(reply)
end

-- Ends the request with a refusal. Does not return.
function replies.refuse(txn, name)
  local status, body, refusal = replies.refusal(txn, name)
  reply_with(txn, status, {
    ["Retry-After"] = refusal.retry_after,
    ["Allow"] = refusal.allow,
    ["WWW-Authenticate"] = refusal.challenge,
    ["x-amzn-errortype"] = status == 424 and "ModelError" or nil,
  }, body)
end

-- /ping: healthy while a replica is ready. Says the state of each, and what they have in all.
function replies.ping(txn)
  local is_healthy = false
  local num_sessions, num_prompts = 0, 0
  local states = {}
  for _, replica in ipairs(replicas.all()) do
    if replica.state == "ready" then
      is_healthy = true
      num_sessions = num_sessions + replica.num_sessions
      num_prompts = num_prompts + replica.num_prompts
    end
    table.insert(states, quoted(replica.name) .. ":" .. quoted(replica.state))
  end
  if not is_healthy then
    replies.refuse(txn, "no_replica")
  end
  reply_with(txn, 200, {}, '{"status":"Healthy","open_sessions":' .. num_sessions .. ',"prompts":'
    .. num_prompts .. ',"replicas":{' .. table.concat(states, ",") .. "}}")
end

return replies
