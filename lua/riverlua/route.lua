--- How connections get to a server: what the options of a client and the environment say of proxies, authorities and
-- Unix sockets.

local route = {}

local function names_proxy()
  for _, name in ipairs{"http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY", "ALL_PROXY"} do
    if os.getenv(name) then return true end
  end
  return false
end

--- A part of what riverlua.core.transfer's `net` takes.
---@param options {proxy: string|false|nil, ca_file: string|nil, unix_socket: string|nil, verify: boolean|nil}
---@return {proxy: string|nil, ca_file: string|nil, unix_socket: string|nil, verify: boolean}
function route.profile(options)
  local proxy = options.proxy
  -- "": none; saves libcurl from looking into the environment for every request
  if proxy == false or proxy == nil and not names_proxy() then proxy = "" end
  return {
    proxy = proxy,
    ca_file = options.ca_file or os.getenv("RIVERLUA_CA") or os.getenv("SSL_CERT_FILE"),
    unix_socket = options.unix_socket,
    verify = options.verify ~= false,
  }
end

return route
