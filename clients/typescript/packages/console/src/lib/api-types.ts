/** Replies of operators' RPCs, as `proto/tidewire/v1/admin.proto` has them. */

/** A connection and its quality. */
export interface ConnectionInfo {
  readonly connectionId: string;
  readonly userId?: string;
  readonly transport: string;
  readonly address: string;
  readonly connectedAt: number;
  readonly subscriptions: number;
  readonly rttMs?: number;
  readonly jitterMs?: number;
  readonly missedBeats: number;
  readonly bytesSent: number;
  readonly bytesReceived: number;
  readonly bytesQueued: number;
}

/** A page of connections. */
export interface ConnectionPage {
  readonly connections: readonly ConnectionInfo[];
  readonly next?: string;
}

/** Figures of the server over ten seconds. */
export interface ServerSample {
  readonly timestamp: number;
  readonly venues: number;
  readonly venuesUp: number;
  readonly chains: number;
  readonly chainsAtHead: number;
  readonly clients: number;
  readonly messagesPerSecond: number;
  readonly deliveryP99Ms: number | null;
  readonly alertsFired: number;
}

/** The figures of the last hour, oldest first. */
export interface ServerSeries {
  readonly stepMs: number;
  readonly samples: readonly ServerSample[];
  /** The configuration file, on the server's machine. */
  readonly configFile?: string;
}
