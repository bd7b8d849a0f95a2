// Clients of riverlua's WebSocket server: the npm package `ws`. node callers.js PORT; the exit code tells.
"use strict";
const assert = require("assert");
const WebSocket = require("ws");

const port = process.argv[2];
const address = (path) => `ws://127.0.0.1:${port}${path}`;

function once(emitter, name) {
  return new Promise((resolve, reject) => {
    emitter.once(name, (...values) => resolve(values));
    if (name !== "error") emitter.once("error", reject);
  });
}

async function messages() {
  const ws = new WebSocket(address("/echo"), ["gamma"]);
  await once(ws, "open");
  assert.strictEqual(ws.protocol, "gamma");
  for (const message of ["", "hello", "κόσμε 🌊", "x".repeat(70000)]) {
    ws.send(message);
    const [data, binary] = await once(ws, "message");
    assert.strictEqual(binary, false);
    assert.strictEqual(data.toString(), message);
  }
  const bytes = Buffer.alloc(3000000, 7);
  ws.send(bytes);
  const [data, binary] = await once(ws, "message");
  assert.ok(binary && data.equals(bytes));
  ws.send("frag", {fin: false});
  ws.send("ment", {fin: true});
  assert.strictEqual((await once(ws, "message"))[0].toString(), "fragment");
  ws.ping("there?");
  assert.strictEqual((await once(ws, "pong"))[0].toString(), "there?");
  ws.close(4001, "done");
  assert.strictEqual((await once(ws, "close"))[0], 4001);
}

async function closes() {
  const ws = new WebSocket(address("/code?4321"));
  const [code, reason] = await once(ws, "close");
  assert.strictEqual(code, 4321);
  assert.strictEqual(reason.toString(), "as you like");
  const pings = new WebSocket(address("/pings"));
  assert.strictEqual((await once(pings, "message"))[0].toString(), "answered");
  pings.terminate();
}

messages().then(closes).then(() => process.exit(0), (problem) => {
  console.error(problem);
  process.exit(1);
});
