/** Form of a rule: fields for simple conditions, JSON for the others, each fault beside its field. */
import type { AlertDraft, AlertRule } from "@tidewire/client";
import { type ReactElement, type SubmitEvent, useId, useState } from "react";
import { symbolsOf as venueSymbols, useSources } from "../lib/sources.ts";
import { Backtest } from "./backtest-view.tsx";
import { COMMON, draftOf, draftOfJson, type Fault, faultOf, type Field, initialValues, jsonOf, KINDS, type Values, valuesOf } from "./form.ts";

const JSON_KIND = "json";
const EXAMPLE = `{
  "name": "Both are high",
  "repeat": "recurring",
  "cooldownMs": 300000,
  "condition": {
    "kind": "all",
    "conditions": [
      { "kind": "price_above", "symbol": "BTC-USD", "threshold": 70000 },
      { "kind": "price_above", "symbol": "ETH-USD", "threshold": 3000 }
    ]
  }
}`;

/** Props of an `Editor`. */
export interface EditorProps {
  /** The rule to change. Without one, a new rule is created. */
  readonly rule?: AlertRule | undefined;
  /** Sends the rule. Rejects with the server's refusal. */
  readonly save: (draft: AlertDraft) => Promise<unknown>;
  /** Where "Cancel" leads. */
  readonly back: string;
}

/** The form. */
export function Editor({ rule, save, back }: EditorProps): ReactElement {
  const [values, setValues] = useState<Values>(() => (rule ? valuesOf(rule) : undefined) ?? initialValues(rule ? JSON_KIND : "price_crosses"));
  const [json, setJson] = useState(rule ? jsonOf(rule) : EXAMPLE);
  const [fault, setFault] = useState<Fault>();
  const [isBusy, setBusy] = useState(false);
  const kind = values["kind"] ?? "";
  const isJson = kind === JSON_KIND;
  const fields = [...(KINDS[kind]?.fields ?? []), ...(isJson ? [] : COMMON)];

  /** Reads the form, and shows its first fault. */
  const read = (): AlertDraft | undefined => {
    const result = isJson ? draftOfJson(json) : draftOf(values, rule !== undefined);
    setFault("fault" in result ? result.fault : undefined);
    return "draft" in result ? result.draft : undefined;
  };
  const submit = (event: SubmitEvent<HTMLFormElement>): void => {
    event.preventDefault();
    const form = event.currentTarget;
    const draft = read();
    if (draft === undefined) {
      requestAnimationFrame(() => form.querySelector<HTMLElement>("[aria-invalid=true]")?.focus());
      return;
    }
    setBusy(true);
    save(draft).catch((error: unknown) => {
      setBusy(false);
      setFault(faultOf(error instanceof Error ? error.message : String(error), isJson ? [] : fields.map(({ name }) => name)));
      requestAnimationFrame(() => form.querySelector<HTMLElement>("[aria-invalid=true]")?.focus());
    });
  };
  return (
    <form className="editor" onSubmit={submit} noValidate aria-label={rule ? "Change the rule" : "New rule"}>
      <div className="fields">
        <label className="field">
          <span>Condition</span>
          <select
            value={kind}
            onChange={({ target }) => {
              setFault(undefined);
              setValues(initialValues(target.value, values));
            }}
          >
            {Object.entries(KINDS).map(([name, { label }]) => (
              <option key={name} value={name}>{label}</option>
            ))}
            <option value={JSON_KIND}>Anything else, as JSON</option>
          </select>
        </label>
        {isJson ? (
          <JsonField text={json} onChange={(text) => { setFault(undefined); setJson(text); }} fault={fault?.field === "json" ? fault.text : undefined} />
        ) : (
          fields.map((field) => (
            <FieldInput
              key={field.name}
              field={field}
              value={values[field.name] ?? ""}
              fault={fault?.field === field.name ? fault.text : undefined}
              onChange={(text) => {
                setFault((known) => (known?.field === field.name ? undefined : known));
                setValues({ ...values, [field.name]: text });
              }}
            />
          ))
        )}
      </div>
      <p className="note bad" role="alert">{fault?.field === undefined ? fault?.text : ""}</p>
      <div className="row">
        <button className="main" disabled={isBusy}>{rule ? "Save" : "Create"}</button>
        <a href={back}>Cancel</a>
      </div>
      <Backtest rule={read} />
    </form>
  );
}

function JsonField({ text, onChange, fault }: { readonly text: string; readonly onChange: (text: string) => void; readonly fault: string | undefined }): ReactElement {
  const id = useId();
  return (
    <label className="field wide">
      <span>Rule as JSON</span>
      <textarea rows={12} spellCheck={false} value={text} aria-invalid={fault !== undefined} aria-describedby={fault === undefined ? undefined : id} onChange={({ target }) => { onChange(target.value); }} />
      {fault !== undefined && <em id={id} className="bad">{fault}</em>}
    </label>
  );
}

interface FieldInputProps {
  readonly field: Field;
  readonly value: string;
  readonly fault: string | undefined;
  readonly onChange: (text: string) => void;
}

function FieldInput({ field: { label, type, choices, hint, isOptional = false, name }, value, fault, onChange }: FieldInputProps): ReactElement {
  const id = useId();
  const { data } = useSources();
  const common = { value, "aria-invalid": fault !== undefined, "aria-describedby": fault !== undefined ? `${id}f` : hint !== undefined ? `${id}h` : undefined };
  return (
    <label className={`field ${name === "template" || name === "txHash" ? "wide" : ""}`}>
      <span>{label}{isOptional && <small> optional</small>}</span>
      {choices ? (
        <select {...common} onChange={({ target }) => { onChange(target.value); }}>
          {choices.map((choice) => (
            <option key={choice}>{choice}</option>
          ))}
        </select>
      ) : (
        <input
          {...common}
          list={type === "symbol" ? `${id}s` : undefined}
          inputMode={type === "exact" || type === "number" || type === "integer" ? "decimal" : undefined}
          placeholder={name === "template" ? "{symbol} is at {price}" : type === "duration" ? "90 s, 5 min, 1 h" : undefined}
          autoComplete="off"
          spellCheck={false}
          onChange={({ target }) => { onChange(target.value); }}
        />
      )}
      {type === "symbol" && (
        <datalist id={`${id}s`}>
          {(data ? venueSymbols(data) : []).map((symbol) => (
            <option key={symbol} value={symbol} />
          ))}
        </datalist>
      )}
      {hint !== undefined && <small id={`${id}h`} className="soft">{hint}</small>}
      {fault !== undefined && <em id={`${id}f`} className="bad">{fault}</em>}
    </label>
  );
}
