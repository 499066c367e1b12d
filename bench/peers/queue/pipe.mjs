// How run.py talks to a helper: a line of JSON in, a line of JSON out, until the pipe ends.

import { createInterface } from "node:readline";

/** Microseconds of the clock that all processes of a machine share. */
export const now = () => Number(process.hrtime.bigint()) / 1e3;

/** Answers each line `{"verb": argument}` with what the verb of that name comes to. */
export async function obey(verbs) {
  // Whatever a library prints must not stand among the answers.
  globalThis.console = new console.Console(process.stderr);
  for await (const line of createInterface({ input: process.stdin })) {
    const [[verb, argument]] = Object.entries(JSON.parse(line));
    const answer = await verbs[verb](argument).catch((error) => ({ error: String(error) }));
    process.stdout.write(JSON.stringify(answer) + "\n");
  }
  process.exit(0);
}
