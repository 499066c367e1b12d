// The client, `load.mjs PORT`: sends items one-way over connections that are kept, one item at a time on each.
//
// It writes its requests itself: Node's own client takes three times as much of the cores that all share.

import { connect } from "node:net";
import { now, obey } from "./pipe.mjs";

const HEAD = /^HTTP\/1\.1 (\d+) [^]*?\r\n\r\n/;
const LENGTH = /\r\ncontent-length: *(\d+)\r\n/i;

const port = Number(process.argv[2]);

/** One connection, kept until the server ends it. */
class Connection {
  constructor() {
    this.read = "";
    this.waiting = null;
    this.socket = connect({ port, host: "127.0.0.1", noDelay: true });
    this.socket.setEncoding("latin1");
    this.socket.on("data", (piece) => this.heard(piece));
    this.socket.on("error", (error) => this.waiting?.reject(error));
    this.socket.on("close", () => this.waiting?.reject(new Error("the connection ended before the answer")));
  }

  get ended() {
    return this.socket.destroyed || this.socket.readableEnded;
  }

  /** Resolves once the item was acknowledged. */
  send(item, queue) {
    if (this.ended) return Promise.reject(new Error("the server ended a connection in the middle"));
    const body = String(item);
    this.socket.write(
      `POST /Line/q${queue}/run/send HTTP/1.1\r\nhost: 127.0.0.1:${port}\r\ncontent-type: application/json\r\n` +
        `content-length: ${body.length}\r\n\r\n${body}`,
    );
    return new Promise((resolve, reject) => (this.waiting = { resolve, reject }));
  }

  heard(piece) {
    this.read += piece;
    const head = HEAD.exec(this.read);
    if (!head) return;
    const length = LENGTH.exec(head[0]);
    if (!length) return this.waiting.reject(new Error(`an answer without a content-length: ${head[0]}`));
    if (this.read.length < head[0].length + Number(length[1])) return;
    const [{ resolve, reject }, answer] = [this.waiting, this.read];
    [this.waiting, this.read] = [null, ""];
    if (head[1] === "202") resolve();
    else reject(new Error(`a send is answered 202, and this one was: ${answer}`));
  }
}

let connections = [];

await obey({
  /** Sends `count` items from the number `first` on, spread over `queues`: when it began, and when the last was acknowledged. */
  send: async ({ first, count, queues, over }) => {
    // A server may end those that were idle for long: what is written to them then is never answered.
    connections = connections.filter((one) => !one.ended);
    while (connections.length < over) connections.push(new Connection());
    let next = first;
    const called = now();
    const worker = async (connection) => {
      while (next < first + count) {
        const item = next++;
        await connection.send(item, item % queues);
      }
    };
    await Promise.all(connections.slice(0, over).map(worker));
    return { called, acked: now() };
  },
});
