// The stand-in as phoenix.js sees it: one JSON line per scenario, {"name", …what was seen}.
// Arguments: the stand-in's start-up line. NODE_PATH names the folder of the packages phoenix and ws.
"use strict"

const {Socket} = require("phoenix")
const WebSocket = require("ws")

const info = JSON.parse(process.argv[2])
const api = `http://127.0.0.1:${info.http}`
const LIMIT = 30000                 // milliseconds until a scenario is given up

async function post(path, body) {
  const headers = {"Authorization": `Bearer ${info.keys.good}`, "Content-Type": "application/json"}
  const answer = await fetch(api + path, {method: "POST", headers, body: JSON.stringify(body)})
  return {status: answer.status, body: await answer.json()}
}

async function control(path) {
  return (await fetch(`http://127.0.0.1:${info.control}${path}`)).json()
}

async function start(workflow, extra = {}) {
  const messages = [{role: "user", content: "Hello"}]
  return (await post("/v1/ai/async", {workflow, messages, user_id: "u1", ...extra})).body
}

// A socket and channel of a job; all that they tell is in `seen` and wakes who waits for it.
class Listener {
  constructor(job, options = {}) {
    this.seen = []
    this.waiters = []
    this.token = job.ws_token
    this.socket = new Socket(job.websocket_url, {
      transport: WebSocket, params: () => ({token: this.token}), heartbeatIntervalMs: options.heartbeat || 30000,
      reconnectAfterMs: () => 20, rejoinAfterMs: () => 20, timeout: options.timeout || 5000})
    this.socket.onOpen(() => this.note("open"))
    this.socket.onClose(event => this.note("close", event.code))
    this.socket.onError(error => this.note("error", error.message || ""))
    this.channel = this.socket.channel(options.topic || job.websocket_channel, {})
    for (const event of ["response", "error", "success", "progress"]) {
      this.channel.on(event, payload => this.note("event", {event, payload}))
    }
    this.channel.onError(reason => this.note("channel_error", reason))
    this.channel.onClose(() => this.note("channel_close"))
  }

  note(what, value) {
    this.seen.push({what, value})
    this.waiters = this.waiters.filter(waiter => !waiter())
  }

  // the n-th thing of this kind
  until(what, count = 1) {
    return new Promise(resolve => {
      const check = () => {
        const found = this.seen.filter(one => one.what === what)
        if (found.length < count) return false
        resolve(found[count - 1].value)
        return true
      }
      if (!check()) this.waiters.push(check)
    })
  }

  count(what) { return this.seen.filter(one => one.what === what).length }

  join() {
    this.socket.connect()
    this.channel.join()
      .receive("ok", response => this.note("joined", response))
      .receive("error", response => this.note("refused", response))
      .receive("timeout", () => this.note("join_timeout"))
    return this
  }

  async freshToken(job) {
    this.token = (await post("/v1/ai/reconnect", {channel_id: job.channel_id})).body.ws_token
  }

  end() { this.socket.disconnect(null, 1000) }
}

// Joins the job of a workflow and returns the first event.
async function firstEvent(workflow, extra) {
  const listener = new Listener(await start(workflow, extra)).join()
  const seen = await listener.until("event")
  listener.end()
  return {event: seen.event, payload: seen.payload}
}

async function refused(workflow, topic) {
  const job = await start(workflow)
  const listener = new Listener(job, {topic: topic && topic(job)}).join()
  const response = await listener.until("refused")
  listener.end()
  return {reason: response.reason === undefined ? null : response.reason}
}

// The socket ends before the result; a fresh token brings it after the reconnection.
async function dropped(workflow) {
  const job = await start(workflow)
  const listener = new Listener(job).join()
  const code = await listener.until("close")
  await listener.freshToken(job)
  const seen = await listener.until("event")
  const opened = listener.count("open")
  listener.end()
  return {code, status: seen.payload.status, opened}
}

const other = "11111111-2222-3333-4444-555555555555"

const scenarios = {
  three_parts: () => firstEvent("job"),
  two_parts: async () => {
    const job = await start("job+short")
    const listener = new Listener(job).join()
    const seen = await listener.until("event")
    listener.end()
    return {parts: job.websocket_channel.split(":").length, keys: Object.keys(job).sort(), ...seen}
  },
  own_ref: () => firstEvent("job+own_ref"),
  foreign_ref: () => firstEvent("job+foreign_ref+stray"),
  before_reply: () => firstEvent("job+before_reply"),
  fragments: () => firstEvent("job+fragment:3+ping"),
  bytewise: () => firstEvent("job+ws_split:1"),
  error_event: () => firstEvent("job+error_event:no luck"),
  failed: () => firstEvent("job+fail_job:no luck"),
  provider_failed: () => firstEvent("fail200"),
  success_event: () => firstEvent("job+success_event"),
  unknown_event: () => firstEvent("job+unknown_events:2"),
  big: async () => {
    const {payload} = await firstEvent("big:1048576")
    return {length: payload.content.length}
  },
  held: async () => {
    const listener = new Listener(await start("job+hold:node")).join()
    await listener.until("joined")
    const before = listener.count("event")
    await control("/release?key=node")
    const seen = await listener.until("event")
    listener.end()
    return {before, status: seen.payload.status}
  },
  event_driven: async () => {
    const job = await start("event:new_movie", {events: ["new_movie"]})
    const listener = new Listener(job).join()
    const first = await listener.until("event")
    const data = {title: "Ada"}
    const answer = await post(`/v1/callback/${job.channel_id}`, {data, task_id: "t1", metadata: {a: 1}})
    const second = await listener.until("event", 2)
    const again = await post(`/v1/callback/${job.channel_id}`, {data})
    listener.end()
    return {first: first.payload, callback: answer.status, second: second.payload, again: again.status}
  },
  heartbeats: async () => {
    const listener = new Listener(await start("job+hold:never"), {heartbeat: 200}).join()
    await listener.until("joined")
    const counted = await control("/wait?key=frame:heartbeat&counted=3")
    listener.channel.push("heartbeat", {}).receive("ok", response => listener.note("beat", response))
    const response = await listener.until("beat")
    const closed = listener.count("close")
    listener.end()
    return {timeout: counted.timeout, response, closed}
  },
  no_heartbeats: async () => {
    const job = await start("job+hold:never+mute_heartbeat")
    const listener = new Listener(job, {heartbeat: 20}).join()
    const code = await listener.until("close")
    listener.end()
    // the server may hear of the end later than phoenix.js
    let status = null
    while (status === null) {
      status = (await control("/sockets")).find(one => one.channel_id === job.channel_id).close_received
    }
    return {code, status}
  },
  crash: async () => {
    const listener = new Listener(await start("job+crash")).join()
    await listener.until("channel_error")
    const seen = await listener.until("event")
    const joins = listener.count("joined"), opened = listener.count("open")
    listener.end()
    return {joins, opened, status: seen.payload.status}
  },
  mute_join: async () => {
    const listener = new Listener(await start("job+mute_join"), {timeout: 200}).join()
    await listener.until("join_timeout")
    const seen = await listener.until("event")
    listener.end()
    return {status: seen.payload.status}
  },
  spent_token: async () => {
    const job = await start("job+hold:never")
    const listener = new Listener(job).join()
    await listener.until("joined")
    await control("/kill?code=rst")
    const message = await listener.until("error")
    const errors = [message, await listener.until("error", 2)]
    listener.end()
    return {errors, opened: listener.count("open")}
  },
  expired_token: async () => {
    const listener = new Listener(await start("job+expired")).join()
    const message = await listener.until("error")
    listener.end()
    return {message}
  },
  leave: async () => {
    const job = await start("job+hold:never")
    const listener = new Listener(job).join()
    await listener.until("joined")
    // phoenix.js does not wait for the answer to this, so the server is asked what it said
    listener.channel.leave()
    let said = []
    while (said.length < 3) {
      const frames = await control("/frames?way=out")
      said = frames.filter(one => one.text.includes(job.websocket_channel)).map(one => JSON.parse(one.text))
    }
    listener.end()
    const [joinRef, ref] = said[2]
    return {events: said.map(one => one[3]), status: said[1][4].status, same: joinRef === ref}
  },
  two_joins: async () => {
    const job = await start("job+hold:never")
    const listener = new Listener(job).join()
    await listener.until("joined")
    const second = listener.socket.channel(job.websocket_channel, {})
    second.join().receive("ok", () => listener.note("second"))
    await listener.until("second")
    listener.end()
    return {closed: listener.count("channel_close")}
  },
  refused_unauthorized: () => refused("job+refuse:unauthorized_project_access"),
  refused_other_project: () => refused("job", job => `ai_response:${other}:${job.channel_id}`),
  refused_format: () => refused("job", job => job.websocket_channel + ":more"),
  refused_project: () => refused("job", job => `ai_response:nonsense:${job.channel_id}`),
  refused_channel: () => refused("job", () => `ai_response:${info.project_id}:nonsense`),
  refused_topic: () => refused("job", () => "rooms:lobby"),
  refused_crashed: () => refused("job+refuse:join crashed"),
  refused_silently: () => refused("job+refuse"),
  refused_once: async () => {
    const listener = new Listener(await start("job+refuse:busy:1")).join()
    const response = await listener.until("refused")
    const seen = await listener.until("event")
    listener.end()
    return {reason: response.reason, status: seen.payload.status}
  },
  close_1000: () => dropped("job+close:1000"),
  close_1001: () => dropped("job+close:1001"),
  close_empty: () => dropped("job+close:1005"),
  close_reset: () => dropped("job+close:1006"),
  close_fin: () => dropped("job+close:fin"),
  close_early: () => dropped("job+close_early:1012"),
  idle: async () => {
    const listener = new Listener(await start("job+idle:50+hold:never")).join()
    const code = await listener.until("close")
    listener.end()
    return {code}
  },
}

function limited(promise) {
  return Promise.race([promise, new Promise((_, reject) => {
    setTimeout(() => reject(new Error("nothing happened")), LIMIT).unref()
  })])
}

async function main() {
  for (const [name, scenario] of Object.entries(scenarios)) {
    let seen
    try {
      seen = await limited(scenario())
    } catch (error) {
      seen = {failure: String(error.stack || error)}
    }
    console.log(JSON.stringify({name, ...seen}))
  }
  process.exit(0)
}

main()
