// Against a server that answers as the document says.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { test } from "node:test";

import { createClient, initiateOutboundCall, listen, Problem } from "../dist/index.js";

function serve(answer) {
  return new Promise((resolve) => {
    const asked = [];
    const server = createServer(async (request, response) => {
      let body = "";
      for await (const piece of request) body += piece;
      asked.push({ method: request.method, url: request.url, headers: request.headers, body });
      answer(request, response, asked);
    });
    server.listen(0, "127.0.0.1", () => resolve({ baseUrl: `http://127.0.0.1:${server.address().port}`, asked, server }));
  });
}

function json(response, status, body, type = "application/json") {
  response.writeHead(status, { "content-type": type }).end(JSON.stringify(body));
}

test("an order is sent with its key, and a refusal tells why", async () => {
  const { baseUrl, asked, server } = await serve((request, response, all) => {
    if (all.length === 1) {
      return json(response, 200, { session_id: "vs_1", call_sid: "CA1", status: "queued", message: "x", twilio_configured: true });
    }
    json(response, 429, { title: "Too Many Requests", status: 429, detail: "nobody is called", code: "quiet_hours" }, "application/problem+json");
  });
  const api = createClient({ baseUrl, credentials: { key: "ohk_x" } });
  const order = { phone: "+40712345678", agent_type: "sales" };
  const call = await initiateOutboundCall(api, order, "order-1");
  assert.equal(call.session_id, "vs_1");
  assert.equal(asked[0].headers.authorization, "Bearer ohk_x");
  assert.equal(asked[0].headers["idempotency-key"], "order-1");
  assert.deepEqual(JSON.parse(asked[0].body), order);
  await assert.rejects(initiateOutboundCall(api, order), (error) => {
    assert.ok(error instanceof Problem);
    assert.deepEqual([error.status, error.code, error.message], [429, "quiet_hours", "nobody is called"]);
    return true;
  });
  server.close();
});

test("a token that is over is renewed once, for everybody who waits", async () => {
  const { baseUrl, asked, server } = await serve((request, response) => {
    if (request.url === "/api/auth/refresh") {
      return json(response, 200, { access_token: "new", refresh_token: "r2", token_type: "Bearer", expires_in: 900, tenant: "t" });
    }
    if (request.headers.authorization !== "Bearer new") return json(response, 401, {}, "application/problem+json");
    json(response, 200, { calls: [] });
  });
  let renewed;
  const tokens = { access_token: "old", refresh_token: "r1", token_type: "Bearer", expires_in: 900, tenant: "t" };
  const api = createClient({ baseUrl, credentials: { tokens, onRenewed: (it) => (renewed = it) } });
  const answers = await Promise.all([1, 2, 3].map(() => api.GET("/api/calls")));
  assert.deepEqual(answers.map((it) => it.response.status), [200, 200, 200]);
  assert.equal(asked.filter((it) => it.url === "/api/auth/refresh").length, 1);
  assert.equal(renewed.refresh_token, "r2");
  server.close();
});

test("events come as they happen, and what was missed is said", async () => {
  const { baseUrl, server } = await serve((request, response) => {
    if (request.url === "/api/events/ticket") return json(response, 200, { ticket: "t1", expires_in: 30 });
    assert.equal(request.url, "/api/events?ticket=t1");
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write('retry: 2000\n: listening\n\ndata: {"call":"c","epo');
    response.end('ch":0}\n\n: still here\n\nevent: missed\ndata: 7\n\n');
  });
  const api = createClient({ baseUrl, credentials: { key: "ohk_x" } });
  const heard = [];
  for await (const event of listen(api, baseUrl)) heard.push(event);
  assert.deepEqual(heard, [{ call: "c", epoch: 0 }, { missed: 7 }]);
  server.close();
});
