-- Messages and their parts: texts and images.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local digest = require "riverlua.digest"
local json = require "riverlua.json"
local modelriver = require "modelriver"

local error_of, refuses = support.error_of, support.refuses

local PNG = "\137PNG\r\n\26\n" .. ("x"):rep(10)
local IMAGES = {["image/png"] = PNG, ["image/jpeg"] = "\255\216\255\224" .. ("x"):rep(10),
  ["image/gif"] = "GIF89a" .. ("x"):rep(10), ["image/webp"] = "RIFF\n\0\0\0WEBPVP8 "}

-- Writes a file, calls `fn(path)` and removes it.
local function with_file(bytes, fn)
  local path = os.tmpname()
  local file = assert(io.open(path, "wb"))
  file:write(bytes)
  file:close()
  local ok, err = pcall(fn, path)
  os.remove(path)
  if not ok then error(err, 0) end
end

describe("messages", function()
  it("are made of a text, of texts and parts, or of a list of them", function()
    local image = modelriver.image("https://x/y.png")
    local parts = {{type = "text", text = "What is this?"}, image}
    assert.same({role = "user", content = "hi"}, modelriver.user("hi"))
    assert.same({role = "user", content = ""}, modelriver.user(""))
    assert.same({role = "system", content = "Be brief."}, modelriver.system("Be brief."))
    assert.same({role = "assistant", content = "Yes."}, modelriver.assistant("Yes."))
    assert.same({role = "user", content = parts}, modelriver.user("What is this?", image))
    assert.same({role = "user", content = parts}, modelriver.user{"What is this?", image})
    assert.same({role = "user", content = {image}}, modelriver.user(image))
    assert.same({role = "tool", tool_call_id = "c1", content = "sunny"}, modelriver.tool("c1", "sunny"))
    assert.same({type = "text", text = "hi"}, modelriver.text("hi"))
  end)

  it("leave what they were made of as it was", function()
    local list = {"a", modelriver.text("b")}
    modelriver.user(list)
    assert.same({"a", {type = "text", text = "b"}}, list)
  end)

  it("of something else are refused", function()
    refuses("modelriver.user: 'content' must be a string or a table, got nothing", modelriver.user)
    refuses("'content' must be a string or a table, got nothing", modelriver.user, nil)
    refuses("'content' must be a string or a table, got number", modelriver.system, 5)
    refuses("'part 2' must be a string or a table, got nothing", modelriver.user, "a", nil)
    refuses("'part 2' must be a string or a table, got boolean", modelriver.user, {"a", true})
    refuses("is a message already", modelriver.user, modelriver.user("hi"))
    refuses("the list of parts is empty", modelriver.user, {})
    refuses("modelriver.tool: 'id' must be a string", modelriver.tool, nil, "x")
    refuses("modelriver.text: 'text' must be a string", modelriver.text, 5)
  end)
end)

describe("modelriver.image", function()
  it("takes the bytes of every usual kind", function()
    for kind, bytes in pairs(IMAGES) do
      assert.same({type = "image_url", image_url = {url = ("data:%s;base64,%s"):format(kind, digest.to_base64(bytes))}},
        modelriver.image(bytes))
    end
  end)

  it("takes the path of a file", function()
    for kind, bytes in pairs(IMAGES) do
      with_file(bytes, function(path)
        local part = modelriver.image(path, {detail = "low"})
        assert.equal("low", part.image_url.detail)
        assert.equal(bytes, digest.from_base64(part.image_url.url:match("^data:" .. kind .. ";base64,(.*)$")))
      end)
    end
  end)

  it("leaves addresses as they are", function()
    for _, address in ipairs{"https://host/a.png?x=1", "http://host/a", "HTTPS://HOST/A", "data:image/png;base64,iVBO",
      "DATA:image/svg+xml,%3Csvg/%3E"} do
      assert.equal(address, modelriver.image(address).image_url.url)
    end
  end)

  it("takes other kinds when they are named", function()
    local svg = '<svg xmlns="http://www.w3.org/2000/svg"/>'
    assert.equal("data:image/svg+xml;base64," .. digest.to_base64(svg),
      modelriver.image(svg, {type = "image/svg+xml"}).image_url.url)
    with_file("BM\0\0", function(path)
      assert.equal("data:image/bmp;base64,Qk0AAA==", modelriver.image(path, {type = "image/bmp"}).image_url.url)
    end)
  end)

  it("refuses what is no image, and says what was tried", function()
    refuses("cannot read the file: /nowhere/a.png: .*hint: an image is a path", modelriver.image, "/nowhere/a.png")
    refuses("cannot read the file: /: ", modelriver.image, "/")
    refuses("cannot read the file", modelriver.image, "")
    for _, bytes in ipairs{"", "plain text", "%PDF-1.7", "\137PNG", "GIF80a"} do
      with_file(bytes, function(path)
        refuses("'" .. path .. "' has not the bytes of a PNG, JPEG, GIF or WebP", modelriver.image, path)
      end)
    end
    local err = refuses("these are not the bytes", modelriver.image, "\0\1\2binary\xff")
    assert.falsy(tostring(err):find("binary", 1, true))
    refuses("these are not the bytes", modelriver.image, ("a long text "):rep(1000))
    refuses("not one of an image", modelriver.image, "data:text/plain;base64,aGk=")
    refuses("not one of an image", modelriver.image, "data:,hi")
    refuses("'source' must be a string, got nothing", modelriver.image)
    refuses("'options' must be a table", modelriver.image, PNG, "low")
    refuses("did you mean 'detail'", modelriver.image, PNG, {detial = "low"})
    refuses("'detail' must be a string", modelriver.image, PNG, {detail = true})
    refuses("must be a media type", modelriver.image, PNG, {type = "png"})
    refuses("must be a media type", modelriver.image, PNG, {type = "image/png;x,"})
  end)

  it("refuses what is too large", function()
    local huge = PNG .. ("x"):rep(20 * 1024 * 1024)
    local err = error_of(modelriver.image, huge)
    assert.same({"limit", true}, {err.kind, err.hint:find("smaller", 1, true) ~= nil})
    with_file(huge, function(path) assert.equal("limit", error_of(modelriver.image, path).kind) end)
    assert.equal("limit", error_of(modelriver.image, "data:image/png;base64," .. ("A"):rep(30 * 1024 * 1024)).kind)
    local most = PNG .. ("x"):rep(20 * 1024 * 1024 - #PNG)
    assert.is_true(#modelriver.image(most).image_url.url > 20 * 1024 * 1024)
  end)

  it("arrives at the service as it was made", function()
    local stub <close> = support.start()
    local client <close> = support.client(stub)
    local message = modelriver.user("What is this?", modelriver.image(PNG, {detail = "high"}))
    assert.equal("What is this?", client:ai{workflow = "echo", messages = {message}}:text())
    assert.same({message}, json.decode(stub:log()[1].body).messages)
  end)
end)
