/** Account: where a token is entered, and what it opens. */
import { type SubmitEvent, type ReactElement, useEffect, useRef, useState } from "react";
import { useDevelopmentUser } from "../lib/development-user.ts";
import { useRoute } from "../lib/route.ts";
import { signIn, signOut, useSession } from "../lib/session.ts";
import { createStore, useStore } from "../lib/store.ts";
import { Command } from "../ui/command.tsx";

/** Counts requests to show the dialog. */
const requests = createStore(0);

/** Shows the dialog of the account. */
export function openAccount(): void {
  requests.set(requests.get() + 1);
}

/** The form that signs a user in. Pages that need a user show it too. */
export function SignInForm({ onDone }: { readonly onDone?: () => void }): ReactElement {
  const { note } = useSession();
  const user = useDevelopmentUser();
  const [text, setText] = useState("");
  const submit = (event: SubmitEvent): void => {
    event.preventDefault();
    if (signIn(text) === "") {
      setText("");
      onDone?.();
    }
  };
  return (
    <form className="sign-in" onSubmit={submit}>
      <label>
        Token
        <input
          type="password"
          name="token"
          autoComplete="off"
          required
          value={text}
          onChange={(event) => {
            setText(event.target.value);
          }}
        />
      </label>
      <button className="main">Sign in</button>
      <p className="note" role="status">
        {note}
      </p>
      <p className="note">
        <Command args={`token --user ${user}`} /> prints a token for development, <code>--scope admin</code> one of an operator. This tab keeps it until you sign out or close it.
      </p>
    </form>
  );
}

/** A page or a card that needs a user: what it would show, and the form. */
export function SignInCard({ what }: { readonly what: string }): ReactElement {
  return (
    <div className="empty sign-in-card">
      <b>Sign in to see {what}</b>
      <SignInForm />
    </div>
  );
}

/** The dialog of the account. */
export function AccountDialog(): ReactElement {
  const request = useStore(requests);
  const dialog = useRef<HTMLDialogElement>(null);
  const { token, user, wantsToken } = useSession();
  const close = (): void => {
    dialog.current?.close();
  };
  // Another page is another matter.
  const { page, args } = useRoute();
  const address = [page, ...args].join("/");
  useEffect(close, [address]);
  useEffect(() => {
    if (request > 0 && dialog.current?.open === false) {
      dialog.current.showModal();
    }
  }, [request]);
  return (
    <dialog ref={dialog} aria-labelledby="account-title">
      <h2 id="account-title">{token === undefined ? "Sign in" : "Signed in"}</h2>
      {token === undefined ? (
        <>
          <p className="note">A token opens the inbox and the alerts of its user{wantsToken ? ", and everything else: this server wants one." : ", and what its rights allow."}</p>
          <SignInForm onDone={close} />
        </>
      ) : (
        <p>
          {user === undefined ? "The server has not answered yet." : <>As <b id="user">{user}</b>.</>}{" "}
          <button
            type="button"
            onClick={() => {
              signOut();
            }}
          >
            Sign out
          </button>
        </p>
      )}
      <button type="button" onClick={close}>
        Close
      </button>
    </dialog>
  );
}
