/** Fence: keeps the fault of one part of the page from taking the others away. */
import { Component, type ReactNode } from "react";
import { Empty } from "./state.tsx";

interface FenceProps {
  readonly children: ReactNode;
  /** Shown in place of a part that is no page. */
  readonly fallback?: ReactNode;
}

/** Shows its children, or what is wrong with them. */
export class Fence extends Component<FenceProps, { readonly error: Error | undefined }> {
  override readonly state: { readonly error: Error | undefined } = { error: undefined };

  static getDerivedStateFromError(error: Error): { readonly error: Error } {
    return { error };
  }

  override render(): ReactNode {
    const { children, fallback } = this.props;
    return !this.state.error ? (
      children
    ) : fallback !== undefined ? (
      fallback
    ) : (
      <>
        <h1 tabIndex={-1}>This page failed</h1>
        <Empty title="A fault of the console">
          <code>{this.state.error.message}</code> The other pages work. Reload to try again.
        </Empty>
      </>
    );
  }
}
