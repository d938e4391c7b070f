// A typed client of offhook's API. The types are generated from the server's own OpenAPI document.

import createFetchClient, { type Client, type Middleware } from "openapi-fetch";

import type { components, paths } from "./schema.js";

export type { components, paths };

export type Initiate = components["schemas"]["Initiate"];
export type Initiated = components["schemas"]["Initiated"];
export type Session = components["schemas"]["Session"];
export type CallEvent = components["schemas"]["Event"];
export type ProblemDocument = components["schemas"]["Problem"];
export type TokenPair = components["schemas"]["TokenPair"];

/** What the server refused, in its own words. */
export class Problem extends Error {
  readonly status: number;
  /** For programs, such as `quiet_hours`. */
  readonly code: string | undefined;
  /** Everything that is wrong with a document, each with its place. */
  readonly problems: readonly string[];

  constructor(document: Partial<ProblemDocument>, status: number) {
    super(document.detail ?? `the server answered ${status}`);
    this.name = "Problem";
    this.status = status;
    this.code = document.code ?? undefined;
    this.problems = document.problems ?? [];
  }
}

/** A key of a program (`ohk_…`), or the tokens of somebody who has signed in, which are renewed when they are over. */
export type Credentials =
  | { key: string }
  | { tokens: TokenPair; onRenewed?: (tokens: TokenPair) => void };

export interface Options {
  /** Where the server is, such as `https://phone.example.com`. */
  baseUrl: string;
  credentials: Credentials;
  /** Instead of the platform's own. */
  fetch?: typeof fetch;
}

export type Api = Client<paths>;

/** A client for every operation of the document: `api.GET("/api/calls", …)`. */
export function createClient(options: Options): Api {
  const send = options.fetch ?? fetch;
  const api = createFetchClient<paths>({ baseUrl: options.baseUrl, fetch: send });
  const credentials = options.credentials;
  let renewing: Promise<string> | undefined;

  // A refresh token is used once: whoever finds the token over waits for the same renewal.
  function renew(tokens: { tokens: TokenPair; onRenewed?: (tokens: TokenPair) => void }): Promise<string> {
    renewing ??= (async () => {
      try {
        const answer = await createFetchClient<paths>({ baseUrl: options.baseUrl, fetch: send }).POST("/api/auth/refresh", {
          body: { refresh_token: tokens.tokens.refresh_token },
        });
        tokens.tokens = unwrap(answer);
        tokens.onRenewed?.(tokens.tokens);
        return tokens.tokens.access_token;
      } finally {
        renewing = undefined;
      }
    })();
    return renewing;
  }

  const authentication: Middleware = {
    onRequest({ request }) {
      const token = "key" in credentials ? credentials.key : credentials.tokens.access_token;
      request.headers.set("Authorization", `Bearer ${token}`);
      return request;
    },
    async onResponse({ request, response }) {
      const used = request.headers.get("Authorization");
      if (response.status !== 401 || "key" in credentials || request.bodyUsed) return response;
      const current = `Bearer ${credentials.tokens.access_token}`;
      const token = used === current ? `Bearer ${await renew(credentials)}` : current;
      const again = new Request(request.url, { method: request.method, headers: request.headers });
      again.headers.set("Authorization", token);
      // What was asked without a body is asked again; whoever sent one is told, and may.
      return request.method === "GET" ? send(again) : response;
    },
  };
  api.use(authentication);
  return api;
}

/** The answer, or the server's refusal as a `Problem`. */
export function unwrap<T>(answer: { data?: T; error?: unknown; response: Response }): T {
  if (answer.response.ok) return answer.data as T;
  throw new Problem((answer.error ?? {}) as Partial<ProblemDocument>, answer.response.status);
}

/** Signs somebody in. */
export async function signIn(
  baseUrl: string,
  credentials: components["schemas"]["SignIn"],
  send: typeof fetch = fetch,
): Promise<TokenPair> {
  return unwrap(await createFetchClient<paths>({ baseUrl, fetch: send }).POST("/api/auth/login", { body: credentials }));
}

/**
 * Calls somebody. With the same `idempotencyKey` the same order is one call, however often it is sent: a broken connection may be
 * answered by sending it again.
 */
export async function initiateOutboundCall(
  api: Api,
  order: Initiate,
  idempotencyKey: string = crypto.randomUUID(),
): Promise<Initiated> {
  return unwrap(
    await api.POST("/api/calls/initiate", {
      params: { header: { "Idempotency-Key": idempotencyKey } },
      body: order,
    }),
  );
}

/** What happens on the tenant's calls, as it happens; ends when the connection does, or with `signal`. */
export async function* listen(
  api: Api,
  baseUrl: string,
  signal?: AbortSignal,
  send: typeof fetch = fetch,
): AsyncGenerator<CallEvent | { missed: number }> {
  const { ticket } = unwrap(await api.POST("/api/events/ticket"));
  const answer = await send(`${baseUrl}/api/events?ticket=${encodeURIComponent(ticket)}`, signal ? { signal } : {});
  if (!answer.ok || !answer.body) throw new Problem({}, answer.status);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      const lines = text.slice(0, end).split("\n");
      text = text.slice(end + 2);
      const data = lines.find((line) => line.startsWith("data: "))?.slice(6);
      if (data === undefined) continue;
      yield lines.includes("event: missed") ? { missed: Number(data) } : (JSON.parse(data) as CallEvent);
    }
  }
}
