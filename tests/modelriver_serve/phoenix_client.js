// `riverlua serve modelriver` as phoenix.js sees it: one JSON line of what was seen.
// Arguments: the address and the key. NODE_PATH names the folder of the packages phoenix and ws.
"use strict"

const {Socket} = require("phoenix")
const WebSocket = require("ws")

const [address, key] = process.argv.slice(2)

async function post(path, body) {
  const headers = {"Authorization": `Bearer ${key}`, "Content-Type": "application/json"}
  const answer = await fetch(address + path, {method: "POST", headers, body: JSON.stringify(body)})
  return answer.json()
}

function start(workflow) {
  return post("/v1/ai/async", {workflow, messages: [{role: "user", content: "hello"}]})
}

function connect(job) {
  return new Socket(job.websocket_url, {transport: WebSocket, params: {token: job.ws_token},
    heartbeatIntervalMs: 20, reconnectAfterMs: () => 1e9})
}

// Joins a job's channel; resolves with the payloads until `last` says that one is the last.
function listen(job, last, topic = job.websocket_channel) {
  return new Promise(resolve => {
    const socket = connect(job)
    const seen = {payloads: [], refused: null, closed: false, heartbeats: 0}
    const end = () => socket.disconnect(() => resolve(seen), 1000)
    socket.onMessage(message => {
      if (message.topic === "phoenix" && message.event === "phx_reply") seen.heartbeats += 1
    })
    socket.onError(() => { seen.closed = true; end() })
    socket.connect()
    const channel = socket.channel(topic, {})
    channel.on("response", payload => {
      seen.payloads.push(payload)
      if (last(payload)) channel.leave().receive("ok", end)
    })
    channel.join().receive("error", reason => { seen.refused = reason; end() })
  })
}

async function main() {
  const seen = {}
  const job = await start("slow")
  const result = await listen(job, () => true)
  seen.result = result.payloads.map(payload => [payload.status, payload.channel_id === job.channel_id])
  seen.again = (await listen(job, () => true)).closed        // its token is spent
  const fresh = await post("/v1/ai/reconnect", {channel_id: job.channel_id})
  seen.replayed = (await listen(fresh, () => true)).payloads.length
  const other = await start("slow")
  seen.refused = (await listen(other, () => true, "ai_response:nonsense:" + other.channel_id)).refused

  const film = await start("film")
  const events = await listen(film, payload => {
    if (payload.status === "ai_generated") {
      post(`/v1/callback/${film.channel_id}`, {data: {title: "Heat", stock: 3}, task_id: "t1"})
    }
    return payload.status === "completed"
  })
  seen.film = events.payloads.map(payload => [payload.status, payload.data || null, payload.task_id || null])

  // stays joined for some heartbeats
  const quiet = await start("film")
  let socket
  const beats = await new Promise(resolve => {
    socket = connect(quiet)
    let count = 0
    socket.onMessage(message => {
      if (message.topic === "phoenix" && message.event === "phx_reply" && ++count === 3) resolve(count)
    })
    socket.connect()
    socket.channel(quiet.websocket_channel, {}).join()
  })
  await new Promise(resolve => socket.disconnect(resolve))
  seen.beats = beats
  console.log(JSON.stringify(seen))
  process.exit(0)
}

main().catch(error => { console.error(error); process.exit(1) })
