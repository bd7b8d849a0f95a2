-- Known answers: FIPS 180-4, RFC 4231, RFC 4648.

local digest = require "riverlua.digest"

describe("riverlua.digest", function()
  it("hashes", function()
    assert.equal("a9993e364706816aba3e25717850c26c9cd0d89d", digest.hex(digest.sha1("abc")))
    assert.equal("da39a3ee5e6b4b0d3255bfef95601890afd80709", digest.hex(digest.sha1("")))
    assert.equal("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", digest.hex(digest.sha256("abc")))
    assert.equal("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", digest.hex(digest.sha256("")))
  end)

  it("makes HMACs, with keys longer than a block too", function()
    assert.equal("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
      digest.hex(digest.hmac_sha256("Jefe", "what do ya want for nothing?")))
    assert.equal("60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
      digest.hex(digest.hmac_sha256(("\xaa"):rep(131), "Test Using Larger Than Block-Size Key - Hash Key First")))
  end)

  it("writes and reads base64", function()
    local pairs_of = {[""] = "", f = "Zg==", fo = "Zm8=", foo = "Zm9v", foob = "Zm9vYg==", fooba = "Zm9vYmE=",
      foobar = "Zm9vYmFy"}
    for plain, coded in pairs(pairs_of) do
      assert.equal(coded, digest.to_base64(plain))
      assert.equal(plain, digest.from_base64(coded))
    end
    local all = {}
    for i = 0, 255 do all[#all + 1] = string.char(i) end
    local bytes = table.concat(all):rep(1000)
    assert.equal(bytes, digest.from_base64(digest.to_base64(bytes)))
    assert.equal("foobar", digest.from_base64("Zm9v\r\n YmFy\n"))
  end)

  it("takes nothing else for base64", function()
    for _, text in ipairs{"Zg", "Zg=", "Z===", "Zm9v!", "Zg==Zg==x"} do assert.is_nil(digest.from_base64(text)) end
  end)

  it("compares", function()
    assert.is_true(digest.equal("", ""))
    assert.is_true(digest.equal("a\0b", "a\0b"))
    assert.is_false(digest.equal("a\0b", "a\0c"))
    assert.is_false(digest.equal("ab", "abc"))
  end)

  it("draws random bytes and UUIDs", function()
    assert.equal(0, #digest.random(0))
    assert.equal(65536, #digest.random(65536))
    assert.not_equal(digest.random(16), digest.random(16))
    local seen = {}
    for _ = 1, 1000 do
      local uuid = digest.uuid()
      assert.truthy(uuid:find("^%x%x%x%x%x%x%x%x%-%x%x%x%x%-4%x%x%x%-[89ab]%x%x%x%-%x%x%x%x%x%x%x%x%x%x%x%x$"), uuid)
      assert.is_nil(seen[uuid])
      seen[uuid] = true
    end
    assert.is_false((pcall(digest.random, 65537)))
    assert.is_false((pcall(digest.random, -1)))
  end)
end)

describe("the hashes of nettle", function()
  local function output_of(command)
    local pipe <close> = assert(io.popen("{ " .. command .. "\n} 2>&1"))
    return pipe:read("a"):match("^(.-)%s*$")
  end

  -- Headers as those of nettle 4, as far as it matters here: the functions that end a hash have no length.
  it("are called as nettle 4 wants it, too", function()
    local version = output_of "pkg-config --modversion nettle"
    if not version:find("^3%.") then return pending("this is nettle " .. version) end
    local folder = os.tmpname()
    os.remove(folder)
    local said = output_of(([[
      mkdir -p %s/nettle &&
      for header in "$(pkg-config --variable=includedir nettle)"/nettle/*.h; do
        sed -z -e 's/\(_digest(struct [a-z0-9_]* \*ctx,\)\s*size_t length,/\1/g' \
          -e 's/\(NETTLE_VERSION_MAJOR\) 3/\1 4/' "$header" > %s/nettle/"${header##*/}" || exit
      done
      ${CC:-cc} -std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -fsyntax-only -I%s -Isrc \
        $(pkg-config --cflags lua5.4 libuv libcurl) src/lua_digest.c src/websocket_handshake.c && echo fine
      rm -r %s]]):format(folder, folder, folder, folder))
    assert.equal("fine", said)
  end)
end)
