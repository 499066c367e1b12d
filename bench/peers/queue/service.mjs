// The service whose handler does nothing but note its start: `service.mjs restate|bare PORT`.
//
// `restate` is an endpoint of the public SDK with one keyed virtual object; `bare` is an HTTP/2 server that does the
// same for hops.mjs. What started when is kept in memory until run.py asks.

import * as http2 from "node:http2";
import * as restate from "@restatedev/restate-sdk";
import { now, obey } from "./pipe.mjs";

// The SDK takes this from Node 22; Node 20 lacks it.
Promise.withResolvers ??= function () {
  let resolve, reject;
  const promise = new this((yes, no) => ([resolve, reject] = [yes, no]));
  return { promise, resolve, reject };
};

/** `[item, microsecond]` of each start in its order: an item that started twice is there twice. */
let starts = [];
let items = new Set();
/** Called after each start, for whoever waits for one. */
let look = () => {};
/** Connections of whoever calls. */
let callers = 0;
/** What a handler waits for once it has noted its start, while the gate is shut. */
let gate = null;
let open = () => {};

async function start(item) {
  starts.push([item, now()]);
  items.add(item);
  look();
  await gate;
}

function until(condition) {
  return new Promise((resolve) => {
    look = () => {
      if (!condition()) return;
      look = () => {};
      resolve({});
    };
    look();
  });
}

function keyed() {
  const line = restate.object({ name: "Line", handlers: { run: (_, item) => start(item) } });
  const logger = (about, ...words) => about.level === "error" && console.error(...words);
  return http2.createServer(restate.createEndpointHandler({ services: [line], logger }));
}

function bare() {
  return http2.createServer().on("stream", (stream) => {
    let body = "";
    stream.setEncoding("utf8");
    stream.on("data", (piece) => (body += piece));
    stream.on("end", async () => {
      await start(JSON.parse(body));
      stream.respond({ ":status": 200 }, { endStream: true });
    });
  });
}

const [kind, port] = process.argv.slice(2);
const server = { restate: keyed, bare }[kind]();
server.on("session", (session) => {
  callers += 1;
  session.on("close", () => {
    callers -= 1;
    look();
  });
});
await new Promise((resolve, reject) => server.on("error", reject).listen(Number(port), "127.0.0.1", resolve));

await obey({
  /** Answers once that many different items have started. */
  count: (many) => until(() => items.size >= many),
  /** Answers once this item has started. */
  item: (one) => until(() => items.has(one)),
  /** Answers once nobody is connected: what was said before is all noted. */
  left: () => until(() => callers === 0),
  /** All starts since the last `forget`. */
  starts: async () => starts,
  forget: async () => ((starts = []), (items = new Set()), {}),
  /** From now on a handler waits after its start, until `open`. */
  shut: async () => ((gate = new Promise((resolve) => (open = resolve))), {}),
  open: async () => (open(), (gate = null), {}),
});
