-- Requests of the router's own to replicas, each over a connection of its own. Receive at once what was
-- sent: HAProxy 2.6 spins while a reply waits to be read.

local http = {}

-- Connects and sends `head` (a request line and headers, each ended, without the version) and `body`.
--
-- Returns an exchange to receive from; or nil and why, "refused" when there is nobody to connect to,
-- "silent" when that could not be told within `seconds`.
function http.send(address, seconds, head, body)
  local host, port = string.match(address or "", "^(.*):(%d+)$")
  if not host then
    return nil, "refused" -- a name that has no address yet
  end
  local socket = core.tcp()
  socket:settimeout(seconds)
  local began = core.now()
  if not socket:connect(host, tonumber(port)) then
    socket:close()
    -- HAProxy does not say why; only a connection that nobody refuses takes its whole time.
    return nil, core.now().sec - began.sec < seconds - 1 and "refused" or "silent"
  end
  -- HTTP/1.0: the replica closes after its reply, whose body is then all that comes.
  local first = string.gsub(head, "\r\n", " HTTP/1.0\r\n", 1)
  socket:send(first .. "Host: replica\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body)
  return {socket = socket}
end

-- Reads the reply and ends the exchange. Returns its status, or nil where none comes in time; and its
-- body, if it is wanted.
function http.receive(exchange, wants_body)
  local line = exchange.socket:receive("*l")
  local status = tonumber(string.match(line or "", "^HTTP/1%.%d (%d%d%d)"))
  local body
  if status and wants_body then
    body = string.match(exchange.socket:receive("*a") or "", "\r\n\r\n(.*)$")
  end
  exchange.socket:close()
  return status, body or ""
end

return http
