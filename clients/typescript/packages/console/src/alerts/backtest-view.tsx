/** Backtest of a rule: judges past prices by it, and draws when it would have fired. */
import type { AlertDraft, AlertEvent, CandlePage, TidewireError } from "@tidewire/client";
import { type ReactElement, useState } from "react";
import { count } from "../lib/format.ts";
import { call } from "../lib/rpc.ts";
import { Empty, Failure } from "../ui/state.tsx";
import { type ChartData, chartOf, fitting, levelsOf, type Period, PERIODS, pricesOf, symbolsOf } from "./backtest.ts";
import { BacktestChart } from "./chart.tsx";

interface Result {
  readonly symbol: string;
  readonly chart: ChartData;
  readonly levels: readonly number[];
  readonly total: number;
  readonly fired: readonly AlertEvent[];
  readonly stoppedAt: number | undefined;
}

/** Runs a backtest. Rejects with the server's refusal. */
async function run(rule: AlertDraft, { interval, intervalMs, candles }: Period): Promise<Result> {
  const symbols = symbolsOf(rule.condition);
  const limit = Math.floor(candles / Math.max(1, symbols.length));
  const pages = await Promise.all(symbols.map((symbol) => call<CandlePage>("PriceService", "GetCandles", { symbol, interval, limit })));
  const { condition, repeat = "once", cooldownMs } = rule;
  const tested = { condition, repeat, ...(cooldownMs !== undefined && cooldownMs > 0 && { cooldownMs }) };
  const prices = fitting(pricesOf(pages.flatMap(({ items }) => items), intervalMs), JSON.stringify(tested).length);
  const { fired = [], total = 0, stoppedAt } = await call<{ fired?: AlertEvent[]; total?: number; stoppedAt?: number }>("AlertService", "Backtest", { rule: tested, prices });
  const symbol = symbols[0] ?? "";
  return { symbol, chart: chartOf(prices, symbol, fired), levels: levelsOf(condition, symbol), total, fired, stoppedAt };
}

/** Props of a `Backtest`. */
export interface BacktestProps {
  /** The rule, read when the backtest begins. Nothing while a form is not filled. */
  readonly rule: () => AlertDraft | undefined;
}

/** The choice of a period, and the result. */
export function Backtest({ rule }: BacktestProps): ReactElement {
  const [period, setPeriod] = useState<Period>();
  const [result, setResult] = useState<Result>();
  const [error, setError] = useState<TidewireError>();
  const [isBusy, setBusy] = useState(false);
  const start = (next: Period): void => {
    const tested = rule();
    if (tested === undefined) {
      return;
    }
    setPeriod(next);
    setBusy(true);
    run(tested, next)
      .then(
        (done) => {
          setResult(done);
          setError(undefined);
        },
        (failure: unknown) => {
          setResult(undefined);
          setError(failure as TidewireError);
        },
      )
      .finally(() => {
        setBusy(false);
      });
  };
  return (
    <div className="backtest">
      <div className="row">
        <h3>Backtest</h3>
        <span className="choices" role="group" aria-label="Time to test">
          {PERIODS.map((each) => (
            <button key={each.label} type="button" aria-pressed={period === each} onClick={() => { start(each); }}>
              {each.label}
            </button>
          ))}
        </span>
        <span className="note" role="status">
          {isBusy ? "Testing…" : result && `It would have fired ${count(result.total, "time")}.${result.stoppedAt === undefined ? "" : " The server would have stopped it then."}`}
        </span>
      </div>
      {error && <Failure error={error} what="a backtest of this rule" />}
      {result &&
        (result.chart.times.length < 2 ? (
          <Empty title="Too few prices">The server has not known {result.symbol} for long enough.</Empty>
        ) : (
          <>
            <BacktestChart data={result.chart} levels={result.levels} name={`${result.symbol} over ${period?.label ?? ""}, with ${count(result.total, "fire")}`} />
            <p className="note">
              <span className="key price" /> {result.symbol} <span className="key fire" /> a fire <span className="key level" /> threshold. Made from candles of{" "}
              {period?.interval === "1m" ? "a minute" : period?.interval === "5m" ? "five minutes" : "an hour"}: a fire is exact to that.
            </p>
          </>
        ))}
    </div>
  );
}
