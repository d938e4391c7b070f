// For "Call customer" buttons: what is under way, what went wrong, and the order itself.

import { useCallback, useRef, useState } from "react";

import { type Api, type Initiate, type Initiated, initiateOutboundCall } from "./index.js";

export interface OutboundCall {
  /** `initiateOutboundCall`: an order is under way; the button says "Calling…". */
  loadingStates: { initiateOutboundCall: boolean };
  /** Why the last order was not taken; its message is for people. */
  error: Error | undefined;
  /** Orders a call; `undefined` when it was refused, or one is under way. */
  initiateOutboundCall: (order: Initiate) => Promise<Initiated | undefined>;
}

/** Calls customers with a client; `onCalled` is where data is fetched anew. */
export function useOutboundCall(api: Api, onCalled?: (call: Initiated) => void): OutboundCall {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<Error>();
  const underWay = useRef(false);
  const order = useCallback(
    async (it: Initiate) => {
      // A second click is not a second call.
      if (underWay.current) return undefined;
      underWay.current = true;
      setBusy(true);
      setError(undefined);
      try {
        const call = await initiateOutboundCall(api, it);
        onCalled?.(call);
        return call;
      } catch (problem) {
        setError(problem instanceof Error ? problem : new Error(String(problem)));
        return undefined;
      } finally {
        underWay.current = false;
        setBusy(false);
      }
    },
    [api, onCalled],
  );
  return { loadingStates: { initiateOutboundCall: busy }, error, initiateOutboundCall: order };
}
