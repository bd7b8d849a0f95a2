--- Hashes, HMAC, base64, random bytes; strings in, strings out.

local core = require "riverlua.core.digest"

local digest = {}

--- The 20 bytes of SHA-1. Only for protocols that ask for it: it is broken for anything that must not be forged.
---@type fun(bytes: string): string
digest.sha1 = core.sha1

--- The 32 bytes of SHA-256.
---@type fun(bytes: string): string
digest.sha256 = core.sha256

--- The 32 bytes of HMAC-SHA-256 (RFC 2104).
---@type fun(key: string, bytes: string): string
digest.hmac_sha256 = core.hmac_sha256

--- Whether two strings are equal; takes as long wherever they differ, so an attacker learns nothing from the time.
---@type fun(a: string, b: string): boolean
digest.equal = core.equal

--- Base64 (RFC 4648, with padding, on one line).
---@type fun(bytes: string): string
digest.to_base64 = core.to_base64

--- The bytes of a base64 text (white space is skipped), or nil when it is none.
---@type fun(text: string): string|nil
digest.from_base64 = core.from_base64

--- So many bytes from the system's secure generator, at most 65,536.
---@type fun(count: integer): string
digest.random = core.random

--- Bytes as lower-case hexadecimal digits.
---@param bytes string
---@return string
function digest.hex(bytes)
  return (bytes:gsub(".", function(char) return ("%02x"):format(char:byte()) end))
end

--- A random UUID (RFC 9562, version 4), such as "550e8400-e29b-41d4-a716-446655440000".
---@return string
function digest.uuid()
  local a, b, c, d, e, f = (">I4I2I2I2I4I2"):unpack(core.random(16))
  return ("%08x-%04x-4%03x-%04x-%08x%04x"):format(a, b, c & 0xfff, d & 0x3fff | 0x8000, e, f)
end

return digest
