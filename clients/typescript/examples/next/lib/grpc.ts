/** gRPC from Node: the services of the `.proto` files, loaded at run time. Runs on the server only. */
import { join } from "node:path";
import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import { serverUrl } from "./rpc.ts";
import { serviceToken } from "./token.ts";

/** A state of a transaction as gRPC gives it: the enum by its name, 64-bit numbers as texts. */
export interface GrpcTransaction {
  readonly hash: string;
  readonly state: string;
  readonly confirmations: number;
  readonly required: number;
  readonly reason?: string;
}

/** An event of `Watch`, and the position after it. */
export interface GrpcWatchEvent {
  readonly epoch: string;
  /** Not with the state of now, which comes first. */
  readonly seq?: string;
  readonly transaction?: GrpcTransaction;
}

type Unary = (request: object, metadata: grpc.Metadata, options: { deadline: number }, done: (error: grpc.ServiceError | null, reply: object) => void) => void;
type Streaming = (request: object, metadata: grpc.Metadata) => grpc.ClientReadableStream<GrpcWatchEvent>;
type Service = "StreamService" | "NotifyService" | "WatchService";
type Clients = Record<Service, Record<string, Unary> & { Watch: Streaming }>;

let clients: Clients | undefined;

/** The clients of the services. One connection serves all calls, and reconnects by itself. */
function open(): Clients {
  if (clients === undefined) {
    const folder = process.env["TIDEWIRE_PROTO"] ?? join(process.cwd(), "../../../../proto");
    const definition = loadSync(["stream", "notify", "watch"].map((name) => `tidewire/v1/${name}.proto`), { includeDirs: [folder], keepCase: false, longs: String, enums: String });
    const { tidewire } = grpc.loadPackageDefinition(definition) as unknown as { tidewire: { v1: Record<Service, grpc.ServiceClientConstructor> } };
    const { host, protocol } = new URL(serverUrl());
    const credentials = protocol === "https:" ? grpc.credentials.createSsl() : grpc.credentials.createInsecure();
    const client = (name: Service): unknown => new tidewire.v1[name](host, credentials);
    clients = { StreamService: client("StreamService"), NotifyService: client("NotifyService"), WatchService: client("WatchService") } as Clients;
  }
  return clients;
}

function identity(): grpc.Metadata {
  const metadata = new grpc.Metadata();
  metadata.set("authorization", `Bearer ${serviceToken()}`);
  return metadata;
}

function unary<Reply>(service: Service, method: string, request: object): Promise<Reply> {
  return new Promise((resolve, reject) => {
    open()[service][method]?.(request, identity(), { deadline: Date.now() + 5_000 }, (error, reply) => {
      if (error) {
        reject(error);
      } else {
        resolve(reply as Reply);
      }
    });
  });
}

/** Publishes a JSON document. With a key, a repeated call publishes once. */
export function publish(channel: string, data: unknown, idempotencyKey?: string): Promise<{ seq: string }> {
  // A JSON document is bytes on gRPC.
  const request = { channel, data: Buffer.from(JSON.stringify(data)), ...(idempotencyKey !== undefined && { idempotencyKey }) };
  return unary("StreamService", "Publish", request);
}

/** Watches a transaction to its end, also while nobody is connected and across restarts. */
export function watchTransaction(chain: number, txHash: string, user: string): Promise<{ status: GrpcTransaction }> {
  return unary("WatchService", "WatchTransaction", { chain, txHash, user });
}

/** The states of a transaction from now on, or after `since`. */
export function transactionEvents(chain: number, txHash: string, since?: { epoch: string; seq: string }): grpc.ClientReadableStream<GrpcWatchEvent> {
  return open().WatchService.Watch({ transaction: { chain, txHash }, ...(since && { since }) }, identity());
}

/** Ends the connection. */
export function closeGrpc(): void {
  for (const client of Object.values(clients ?? {}) as unknown as grpc.Client[]) {
    client.close();
  }
  clients = undefined;
}
