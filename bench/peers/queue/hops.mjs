// Two bare hops, `hops.mjs PORT SERVICE`: takes a send over HTTP/1, hands it to the service over HTTP/2, keeps nothing.
//
// What is left of a durable queue when durability, order and keys are taken away.

import * as http from "node:http";
import * as http2 from "node:http2";
import { obey } from "./pipe.mjs";

const [port, service] = process.argv.slice(2);
const onward = http2.connect(`http://127.0.0.1:${service}`);

const server = http.createServer((request, answer) => {
  let body = "";
  request.setEncoding("utf8");
  request.on("data", (piece) => (body += piece));
  request.on("end", () => {
    const stream = onward.request({ ":method": "POST", ":path": request.url, "content-type": "application/json" });
    stream.end(body);
    stream.resume();
    answer.writeHead(202, { "content-type": "application/json", "content-length": 2 });
    answer.end("{}");
  });
});
// Connections stay, as they do with whom this is the floor of.
server.keepAliveTimeout = 0;
await new Promise((resolve, reject) => server.on("error", reject).listen(Number(port), "127.0.0.1", resolve));

await obey({});
