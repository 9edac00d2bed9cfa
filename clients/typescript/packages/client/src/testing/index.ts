/** Test doubles for applications: a virtual clock and a server without a network, as `@tidewire/client/testing`. */
export { FakeClock, FakeEnvironment, FakeSocket, settle } from "./fakes.ts";
export { FakeServer } from "./server.ts";
