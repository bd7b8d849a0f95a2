// Another independent WebSocket server for the tests: the npm package `ws`. Prints one JSON line with its port and ends
// with its standard input. It echoes; "close <code> <reason>" closes, "ping" pings and says "pong <data>" in the end.
"use strict";
const {WebSocketServer} = require("ws");

const server = new WebSocketServer({port: 0, host: "127.0.0.1", perMessageDeflate: true, maxPayload: 1 << 26}, () => {
  console.log(JSON.stringify({ws: server.address().port}));
});

server.on("connection", (ws) => {
  ws.on("message", (data, binary) => {
    const text = binary ? "" : data.toString();
    const close = text.match(/^close (\d+) ?(.*)$/);
    if (close) ws.close(Number(close[1]), close[2]);
    else if (text === "ping") ws.ping("node asks");
    else ws.send(data, {binary});
  });
  ws.on("pong", (data) => ws.send("pong " + data.toString()));
});

process.stdin.on("end", () => process.exit(0)).resume();
