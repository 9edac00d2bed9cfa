/** Alerts page: the rules of the user who signed in, why they fire, and what they fired. */
import type { AlertDraft, AlertEvent, AlertExplanation, AlertLog, AlertRule, WebSocketClient } from "@tidewire/client";
import { type ReactElement, useEffect, useState } from "react";
import { Backtest } from "../alerts/backtest-view.tsx";
import { type Book, type BookView, EMPTY_BOOK, openBook } from "../alerts/book.ts";
import { Editor } from "../alerts/editor.tsx";
import { conditionText, explained, fireText, repeatText, ruleState, ruleTitle } from "../alerts/words.ts";
import { useNow } from "../lib/clock.ts";
import { age, timeAndDay } from "../lib/format.ts";
import { usePoll } from "../lib/poll.ts";
import { go, href } from "../lib/route.ts";
import { useOnline, useSession } from "../lib/session.ts";
import { SignInCard } from "../shell/account.tsx";
import { Card, PageHead } from "../ui/card.tsx";
import { Chip } from "../ui/chip.tsx";
import { Empty, Failure, Loading, OldMark } from "../ui/state.tsx";
import "./alerts.css";

/** Time between two readings of the rules' states, in milliseconds. */
const REFRESH_MS = 5_000;
const SNOOZES: readonly (readonly [label: string, ms: number])[] = [["15 min", 900_000], ["1 h", 3_600_000], ["8 h", 28_800_000], ["1 d", 86_400_000]];

/** The page. The address names a rule, `new`, or a rule and `edit`. */
export function AlertsPage({ args }: { readonly args: readonly string[] }): ReactElement {
  const { userClient } = useSession();
  return (
    <>
      <PageHead title="Alerts">{userClient && <a className="button" href={href("alerts", "new")}>New rule</a>}</PageHead>
      {userClient === undefined ? <SignInCard what="a user's alerts" /> : <Alerts client={userClient} args={args} />}
    </>
  );
}

function Alerts({ client, args: [id, action] }: { readonly client: WebSocketClient; readonly args: readonly string[] }): ReactElement {
  const [view, setView] = useState<BookView>(EMPTY_BOOK);
  const [book, setBook] = useState<Book>();
  useEffect(() => {
    const opened = openBook(client, setView);
    setBook(opened);
    const timer = setInterval(() => {
      if (!document.hidden) {
        opened.refresh();
      }
    }, REFRESH_MS);
    return () => {
      clearInterval(timer);
      opened.close();
    };
  }, [client]);
  const { rules, error } = view;
  const rule = rules?.find((each) => each.id === id);
  const save = async (draft: AlertDraft, ofId?: string): Promise<void> => {
    const saved = await book?.save(draft, ofId);
    go("alerts", saved?.id ?? "");
  };
  const detail =
    id === "new" ? (
      <Card title="New rule">
        <Editor save={(draft) => save(draft)} back={href("alerts")} />
      </Card>
    ) : id === undefined ? null : rule === undefined ? (
      rules && <Card title="No such rule"><Empty title="The rule is gone">It was deleted, or belongs to another user. Its fires stay in the list.</Empty></Card>
    ) : action === "edit" ? (
      <Card title={`Change: ${ruleTitle(rule)}`}>
        <Editor key={rule.id} rule={rule} save={(draft) => save(draft, rule.id)} back={href("alerts", rule.id)} />
      </Card>
    ) : (
      book && <Rule key={rule.id} rule={rule} book={book} fires={view.fires} />
    );
  return (
    <div className={`grid alerts ${id === undefined ? "" : "has-detail"}`}>
      <div className="grid">
        <Card title="Rules" hint={<OldMark />} copy={{ what: "the rules", asUser: true, subject: () => ({ kind: "call", method: "AlertService/ListAlerts", body: {} }) }}>
          {error && <Failure error={error} what="the alerts" retry={() => book?.refresh()} />}
          {!rules && !error && <Loading what="the rules" />}
          {rules?.length === 0 && <Empty title="No rules yet">A rule watches a price, gas or a transaction, and notifies you when its condition becomes true.</Empty>}
          <ul className="rules" aria-label="Rules, newest first">
            {rules?.map((each) => <RuleLine key={each.id} rule={each} isChosen={each.id === id} />)}
          </ul>
        </Card>
        {id === undefined && <Fires title="Fires" fires={view.fires} rules={rules} {...(view.next !== undefined && book && { more: book.moreFires })} />}
      </div>
      {detail}
    </div>
  );
}

function RuleLine({ rule, isChosen }: { readonly rule: AlertRule; readonly isChosen: boolean }): ReactElement {
  const { word, tone, text } = ruleState(rule, useNow());
  return (
    <li data-rule={rule.id} data-state={rule.state}>
      <a href={href("alerts", rule.id)} aria-current={isChosen}>{ruleTitle(rule)}</a>
      <Chip tone={tone} hint={text}>{word}</Chip>
      <span className="soft">{rule.name ? `${conditionText(rule.condition)} · ` : ""}{repeatText(rule)}</span>
    </li>
  );
}

function Rule({ rule, book, fires }: { readonly rule: AlertRule; readonly book: Book; readonly fires: readonly AlertEvent[] }): ReactElement {
  const now = useNow();
  const isOnline = useOnline();
  const [fault, setFault] = useState("");
  const [isSure, setSure] = useState(false);
  const { id, state, enabled } = rule;
  const { word, tone, text } = ruleState(rule, now);
  const newest = fires.find(({ alertId }) => alertId === id);
  const log = usePoll<AlertLog>("AlertService", "ListFires", { alertId: id, limit: 20 }, 6 * REFRESH_MS, { asUser: true });
  const explanation = usePoll<AlertExplanation>("AlertService", "ExplainAlert", { id }, REFRESH_MS, { asUser: true });
  const { refresh } = explanation;
  const { refresh: refreshLog } = log;
  useEffect(refresh, [refresh, newest, rule.version, state]);
  useEffect(refreshLog, [refreshLog, newest]);
  const act = (work: Promise<unknown>): void => {
    work.then(
      () => { setFault(""); },
      (error: unknown) => { setFault(error instanceof Error ? error.message : String(error)); },
    );
  };
  const isAsleep = !enabled || state === "stopped" || state === "exhausted";
  return (
    <div className="grid">
      <Card
        title={ruleTitle(rule)}
        actions={<a className="back" href={href("alerts")}>All rules</a>}
        copy={{ what: "why it fired or not", asUser: true, subject: () => ({ kind: "call", method: "AlertService/ExplainAlert", body: { id } }) }}
      >
        <p className="row"><Chip tone={tone}>{word}</Chip> <span>{text}</span></p>
        <p className="soft">{conditionText(rule.condition)}. {repeatText(rule)}.</p>
        <div className="row rule-actions">
          <button type="button" className="small" onClick={() => { act(enabled && isAsleep ? book.change(id, { enabled: false }).then(() => book.change(id, { enabled: true })) : book.change(id, { enabled: !enabled })); }}>
            {isAsleep ? "Enable" : "Disable"}
          </button>
          {state === "snoozed" ? (
            <button type="button" className="small" onClick={() => { act(book.change(id, { snoozedUntil: 0 })); }}>End the snooze</button>
          ) : (
            <select
              aria-label="Snooze"
              value=""
              onChange={({ target }) => { act(book.change(id, { snoozedUntil: Date.now() + Number(target.value) })); }}
            >
              <option value="" disabled>Snooze…</option>
              {SNOOZES.map(([label, ms]) => <option key={label} value={ms}>{label}</option>)}
            </select>
          )}
          <a className="button small" href={href("alerts", id, "edit")}>Edit</a>
          <button
            type="button"
            className="small danger"
            onBlur={() => { setSure(false); }}
            onClick={() => {
              if (isSure) {
                act(book.remove(id).then(() => { go("alerts"); }));
              }
              setSure(!isSure);
            }}
          >
            {isSure ? "Delete for good" : "Delete"}
          </button>
        </div>
        <p className="note bad" role="alert">{fault}</p>
        <h3>Why{!isOnline && " (old)"}</h3>
        <Why explanation={explanation.data} error={explanation.error} now={now} last={newest ?? log.data?.items[0]} />
        <Backtest rule={() => rule} />
      </Card>
      <Fires title="Fires of this rule" fires={log.data?.items ?? []} />
    </div>
  );
}

function Why({ explanation, error, now, last }: { readonly last: AlertEvent | undefined; readonly explanation: AlertExplanation | undefined; readonly error: Parameters<typeof Failure>[0]["error"] | undefined; readonly now: number }): ReactElement {
  if (explanation === undefined) {
    return error ? <Failure error={error} what="the explanation" /> : <Loading rows={2} what="the explanation" />;
  }
  const { title, tone, lines } = explained(explanation, now, age, last);
  return (
    <div className="why" data-decision={explanation.decision}>
      <b className={tone}>{title}</b>
      <ul>{lines.map((line) => <li key={line}>{line}</li>)}</ul>
    </div>
  );
}

interface FiresProps {
  readonly title: string;
  readonly fires: readonly AlertEvent[];
  /** To link to them. Without them, the fires are those of one rule. */
  readonly rules?: readonly AlertRule[] | undefined;
  readonly more?: () => void;
}

function Fires({ title, fires, rules, more }: FiresProps): ReactElement {
  const now = useNow();
  return (
    <Card title={title} hint={<OldMark />} copy={{ what: "the fires", asUser: true, subject: () => ({ kind: "call", method: "AlertService/ListFires", body: { limit: 20 } }) }}>
      {fires.length === 0 && <Empty title="Nothing fired yet" />}
      <ul className="fires" aria-label={`${title}, newest first`}>
        {fires.map((fire, index) => {
          const isKnown = rules?.some(({ id }) => id === fire.alertId) === true;
          const name = fire.rule ? ruleTitle(fire.rule) : fire.alertId;
          return (
            <li key={fire.id ?? index} data-fire={fire.id}>
              <time dateTime={new Date(fire.timestamp).toISOString()}>{timeAndDay(fire.timestamp)}</time>
              {isKnown ? <a href={href("alerts", fire.alertId)}>{name}</a> : rules && <span>{name}</span>}
              <span className="soft">{fireText(fire)} · {age(now - fire.timestamp)} ago</span>
              {fire.retracted === true && <Chip tone="warn" ages={false} hint="A reorg took the transaction back">retracted</Chip>}
            </li>
          );
        })}
      </ul>
      {more && <button type="button" className="small" onClick={more}>Show older</button>}
    </Card>
  );
}
